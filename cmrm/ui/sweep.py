"""The Sweep tab: one prompt at many strengths, and where it begins to refuse and to break."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import gradio as gr

from ..answering.comparison import Row
from ..charts import sweep_curve
from ..errors import CmrmError
from ..files import ASSETS
from ..settings import METHODS
from ..steering.offsets import Offsets
from ..workbench import Workbench
from . import view as page
from .compare import EXAMPLES, Compare, longest_answer
from .events import HIDDEN, IN_TURN, refusing, running_on, turn, when_ended
from .own_offsets import Own
from .requests import LENGTH, Ask, answer, parsed_range
from .view import METHOD_NAMES, RUNNING, View

INTRO = """
**How much steering does it take?** One prompt is answered at many strengths (alpha) at once, from 0, the model as it
is. Too little leaves a harmful request answered; too much refuses harmless ones, or breaks the language.
"""


@dataclass(frozen=True)
class _Sweep:
    """The components that events read, write or start from."""

    image: gr.Image
    prompt: gr.Textbox
    alphas: gr.Textbox
    method: gr.Radio
    tokens: gr.Slider
    run: gr.Button
    stop: gr.Button
    take: gr.Button
    problem: gr.HTML
    lines: gr.HTML
    curve: gr.Column
    plot: gr.Plot
    caption: gr.HTML
    view: gr.State


def sweep_tab(bench: Workbench, blocks: gr.Blocks, compare: Compare, own: Own) -> None:
    """Lay out the tab and connect its events."""
    parts = _lay_out(bench)
    _connect(bench, blocks, parts, own)
    # The browser hands over what it has; no upload is read or written for it.
    asked = [compare.image, compare.prompt]
    parts.take.click(None, asked, [parts.image, parts.prompt], js="(...asked) => asked")


def _lay_out(bench: Workbench) -> _Sweep:
    gr.Markdown(INTRO, elem_classes="lead")
    empty = View(page.needs_veil(bench))
    longest = longest_answer(bench)
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=220):
            image = gr.Image(
                label="Image",
                placeholder="Drop an image, or leave empty\nfor text-only answers",
                sources=["upload", "clipboard", "webcam"],
                height=250,
                buttons=["fullscreen"],
                elem_id="sweep-image",
            )
        with gr.Column(scale=5, min_width=300):
            prompt = gr.Textbox(
                label="Prompt",
                placeholder="Ask about the image, or ask for something",
                max_lines=8,
                elem_id="sweep-prompt",
            )
            with gr.Row():
                alphas = gr.Textbox("0:2:0.25", label="Alphas", info="start:end:step, or 0.5,1,1.5", max_lines=1)
                tokens = gr.Slider(1, longest, min(LENGTH, longest), step=1, label="Max tokens")
            methods = [(f"{METHOD_NAMES[method]} offsets", method) for method in METHODS]
            method = gr.Radio(methods, value="dataset", label="Method")
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
            lines = gr.HTML(_lines(empty, 1.0), elem_id="sweep-lines")
        with gr.Column(min_width=300, visible=False) as curve:
            gr.Markdown("### Refusal and fluency over alpha")
            plot = gr.Plot(show_label=False, container=False)
            caption = gr.HTML("")
    return _Sweep(
        image, prompt, alphas, method, tokens, run, stop, take, problem, lines, curve, plot, caption, gr.State(empty)
    )


def _connect(bench: Workbench, blocks: gr.Blocks, parts: _Sweep, own: Own) -> None:
    veiled = page.needs_veil(bench)

    def shown(view: View) -> dict[Any, Any]:
        strength = bench.recipes[view.ask.method].alpha if view.rows else 1.0
        return {parts.lines: _lines(view, strength), parts.problem: page.message(view.error), parts.view: view}

    def begin(view: View) -> Any:
        if view.phase in RUNNING:
            gr.Info("A sweep is still on its way; wait for its end, or press Stop.")
            return gr.skip()
        return {**shown(View(veiled, phase="waiting", note=turn(blocks))), parts.curve: gr.Column(visible=False)}

    def stream(
        offsets: Offsets | None, image: Any, prompt: Any, alphas: Any, method: Any, tokens: Any
    ) -> Iterator[Any]:
        view = View(veiled, phase="reading", note="Reading the prompt ...")
        with refusing():
            yield shown(view)
            try:
                view = replace(view, ask=Ask(image, prompt, parsed_range(alphas), method, tokens, offsets=offsets))
                for step in answer(bench, view.ask):
                    view = view.after(step)
                    yield shown(view)
            except CmrmError as error:
                yield shown(view.failed(str(error)))
                return
            picture = sweep_curve(view.rows)
            yield {
                parts.curve: gr.Column(visible=True),
                parts.plot: picture.figure,
                parts.caption: page.caption(picture),
            }

    frame = [parts.lines, parts.problem, parts.view]
    results = [*frame, parts.curve, parts.plot, parts.caption]
    begun = gr.on(
        [parts.run.click, parts.prompt.submit, parts.alphas.submit], begin, parts.view, results, **IN_TURN, **HIDDEN
    )
    asked = [own.offsets, parts.image, parts.prompt, parts.alphas, parts.method, parts.tokens]
    running = begun.success(stream, asked, results, preprocess=False, **running_on(parts.lines))
    when_ended(running, lambda view: shown(view.settled()), parts.view, frame)
    parts.stop.click(None, cancels=[running])


def _lines(view: View, strength: float) -> str:
    """Return the HTML of one line an alpha; those below `strength`, the method's own alpha, are veiled as unsteered."""
    if not view.rows:
        waiting = view.note if view.phase in RUNNING else "The answers appear here, one line for each alpha."
        return f'<p class="hint{" running" * (view.phase in RUNNING)}" role="status">{escape(waiting)}</p>'
    running = " running" if view.phase in RUNNING else ""
    strongest = next((row for row in view.rows if row.verdict == "refused"), view.rows[-1])
    lines = "".join(_line(view, row, strongest, weak=row.alpha < strength) for row in view.rows)
    return f'<div class="lines{running}" role="list" aria-label="Answers by alpha">{lines}</div>'


def _line(view: View, row: Row, strongest: Row, *, weak: bool) -> str:
    veil = page.veil(replace(view, rows=(row, strongest))) if weak else "open"
    cover = page.cover(veil, "all") if veil == "click" or not row.alpha else ""
    return (
        f'<div class="pane line veil-{veil}" role="listitem"><footer><b>alpha {row.alpha:g}</b>'
        f"<span>{page.length(row)}</span>{page.chip(view, row)}</footer>"
        f'<div class="body">{cover}{page.said(view, row)}</div></div>'
    )
