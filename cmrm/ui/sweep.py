"""The Sweep tab: one prompt at many strengths, and where it begins to refuse and to break."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import gradio as gr
from gradio.components import Component

from ..charts import sweep_curve
from ..errors import CmrmError
from ..files import ASSETS
from ..steering.offsets import Offsets
from ..workbench import Workbench
from . import html
from .compare import EXAMPLES
from .controls import add_image, add_max_new_tokens, add_method, add_prompt
from .events import HIDDEN, IN_TURN, Updates, follow_end, run_model, show_errors, wait_for_turn
from .own_offsets import Own
from .requests import answer, parse_request
from .view import RUNNING, View, needs_veil

INTRO = """
**How much steering does it take?** One prompt is answered at many strengths (alpha) at once, from 0, the model as it
is. Too little leaves a harmful request answered; too much refuses harmless ones, or breaks the language.
"""


@dataclass(frozen=True)
class _Sweep:
    """The components that events read, write or start from; `controls` are those of its settings, by name."""

    image: gr.Image
    prompt: gr.Textbox
    alphas: gr.Textbox
    controls: dict[str, Component]
    run: gr.Button
    stop: gr.Button
    take: gr.Button
    problem: gr.HTML
    lines: gr.HTML
    curve: gr.Column
    plot: gr.Plot
    caption: gr.HTML
    view: gr.State


def add_sweep_tab(bench: Workbench, blocks: gr.Blocks, own: Own, image: gr.Image, prompt: gr.Textbox) -> None:
    """Lay out the tab and connect its events; `image` and `prompt` are those of another tab, to be taken over."""
    parts = _lay_out(bench)
    _connect(bench, blocks, parts, own)
    # The browser hands over what it has; no upload is read or written for it.
    parts.take.click(None, [image, prompt], [parts.image, parts.prompt], js="(...asked) => asked")


def _lay_out(bench: Workbench) -> _Sweep:
    gr.Markdown(INTRO, elem_classes="lead")
    empty = View(needs_veil(bench))
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=220):
            image = add_image("sweep-image", "text-only answers")
        with gr.Column(scale=5, min_width=300):
            prompt = add_prompt("sweep-prompt")
            with gr.Row():
                alphas = gr.Textbox("0:2:0.25", label="Alphas", info="start:end:step, or 0.5,1,1.5", max_lines=1)
                tokens = add_max_new_tokens(bench)
            controls = {"method": add_method(), "max_new_tokens": tokens}
        with gr.Column(scale=4, min_width=260):
            with gr.Row(elem_id="sweep-actions"):
                run = gr.Button("Sweep", variant="primary", elem_id="sweep-run")
                stop = gr.Button("Stop", variant="stop", elem_id="sweep-stop")
                take = gr.Button("Take image and prompt from Compare", elem_id="sweep-take")
            samples = [[str(ASSETS / "examples" / name), text] for (name, text), *_ in EXAMPLES.values()]
            with gr.Column(elem_classes="samples"):
                gr.Examples(samples, [image, prompt], label="Or one of these", api_visibility="private")
    problem = gr.HTML("", elem_id="sweep-problem")
    with gr.Row(elem_id="sweep-results"):
        with gr.Column(min_width=300):
            lines = gr.HTML(html.write_lines(empty, 1.0), elem_id="sweep-lines")
        with gr.Column(min_width=300, visible=False) as curve:
            gr.Markdown("### Refusal and fluency over alpha")
            plot = gr.Plot(show_label=False, container=False)
            caption = gr.HTML("")
    return _Sweep(
        image, prompt, alphas, controls, run, stop, take, problem, lines, curve, plot, caption, gr.State(empty)
    )


def _connect(bench: Workbench, blocks: gr.Blocks, parts: _Sweep, own: Own) -> None:
    controls, veiled = parts.controls, needs_veil(bench)

    def show(view: View) -> Updates:
        strength = bench.recipes[view.request.settings.method].alpha if view.request else 1.0
        lines, problem = html.write_lines(view, strength), html.write_error(view.error)
        return {parts.lines: lines, parts.problem: problem, parts.view: view}

    def begin(view: View) -> Updates:
        if view.phase in RUNNING:
            gr.Info("A sweep is still on its way; wait for its end, or press Stop.")
            return gr.skip()
        waiting = View(veiled, phase="waiting", note=wait_for_turn(blocks))
        return {**show(waiting), parts.curve: gr.Column(visible=False)}

    def stream(
        offsets: Offsets | None, image: object, prompt: object, alphas: object, *values: object
    ) -> Iterator[Updates]:
        view, choices = (
            View(veiled, phase="reading", note="Reading the prompt ..."),
            dict(zip(controls, values, strict=True)),
        )
        with show_errors():
            yield show(view)
            try:
                request = parse_request("sweep", image, prompt, choices, offsets, alphas)
                view = replace(view, request=request)
                with closing(answer(bench, request)) as steps:
                    for step in steps:
                        view = view.advance(step)
                        yield show(view)
            except CmrmError as error:
                yield show(view.fail(str(error)))
                return
            picture = sweep_curve(view.rows)
            yield {
                parts.curve: gr.Column(visible=True),
                parts.plot: picture.figure,
                parts.caption: html.write_caption(picture),
            }

    frame = [parts.lines, parts.problem, parts.view]
    results = [*frame, parts.curve, parts.plot, parts.caption]
    waiting = gr.on(
        [parts.run.click, parts.prompt.submit, parts.alphas.submit], begin, parts.view, results, **IN_TURN, **HIDDEN
    )
    asked = [own.offsets, parts.image, parts.prompt, parts.alphas, *controls.values()]
    running = waiting.success(stream, asked, results, preprocess=False, **run_model(parts.lines))
    follow_end(running, lambda view: show(view.end()), [parts.view], frame)
    parts.stop.click(None, cancels=[running])
