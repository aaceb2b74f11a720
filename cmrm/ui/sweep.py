"""The Sweep tab: one prompt at many strengths, and where it begins to refuse and to break."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import gradio as gr

from ..charts import sweep_curve
from ..errors import CmrmError
from ..steering.offsets import Offsets
from ..workbench import Workbench
from . import html
from .controls import add_image, add_max_new_tokens, add_method, add_prompt
from .events import QUICK, Updates, follow_end, run_model, show_errors, wait_for_turn
from .examples import EXAMPLES, add_examples
from .own_offsets import Own
from .requests import answer, parse_request
from .view import RUNNING, View, needs_veil

INTRO = """
**How much steering does it take?** One prompt is answered at many strengths (alpha) at once, from 0, the model as it
is. Too little leaves a harmful request answered; too much refuses harmless ones, or breaks the language.
"""


def add_sweep_tab(bench: Workbench, blocks: gr.Blocks, own: Own, image: gr.Image, prompt: gr.Textbox) -> None:
    """Lay out the tab and connect its events; `image` and `prompt` are those of another tab, to be taken over."""
    tab = _Sweep(bench, blocks)
    tab.connect(own.offsets)
    # The browser hands over what it has; no upload is read or written for it.
    tab.take.click(None, [image, prompt], [tab.image, tab.prompt], js="(...asked) => asked")


class _Sweep:
    """The tab: its components, those of its settings by name, and what its events do."""

    def __init__(self, bench: Workbench, blocks: gr.Blocks) -> None:
        self.bench, self.blocks, self.veiled = bench, blocks, needs_veil(bench)
        gr.Markdown(INTRO, elem_classes="lead")
        empty = View(self.veiled)
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=220):
                self.image = add_image("sweep-image", "text-only answers")
            with gr.Column(scale=5, min_width=300):
                self.prompt = add_prompt("sweep-prompt")
                with gr.Row():
                    info = "start:end:step, or 0.5,1,1.5"
                    self.alphas = gr.Textbox("0:2:0.25", label="Alphas", info=info, max_lines=1)
                    tokens = add_max_new_tokens(bench)
                self.controls = {"method": add_method(), "max_new_tokens": tokens}
            with gr.Column(scale=4, min_width=260):
                with gr.Row(elem_id="sweep-actions"):
                    self.run = gr.Button("Sweep", variant="primary", elem_id="sweep-run")
                    self.stop = gr.Button("Stop", variant="stop", elem_id="sweep-stop")
                    self.take = gr.Button("Take image and prompt from Compare", elem_id="sweep-take")
                with gr.Column(elem_classes="samples"):
                    add_examples(EXAMPLES[::2], self.image, self.prompt, "Or one of these")
        self.problem = gr.HTML("", elem_id="sweep-problem")
        self.reveal = gr.Button("Show what is hidden", visible="hidden", elem_id="sweep-reveal")
        with gr.Row(elem_id="sweep-results"):
            with gr.Column(min_width=300):
                self.lines = gr.HTML(html.write_lines(empty, 1.0), elem_id="sweep-lines")
            with gr.Column(min_width=300, visible=False) as self.curve:
                gr.Markdown("### Refusal and fluency over alpha")
                self.plot = gr.Plot(show_label=False, container=False)
                self.caption = gr.HTML("")
        self.view = gr.State(empty)

    def connect(self, offsets: gr.State) -> None:
        frame = [self.lines, self.problem, self.view]
        results = [*frame, self.curve, self.plot, self.caption]
        starts = [self.run.click, self.prompt.submit, self.alphas.submit]
        waiting = gr.on(starts, self.begin, self.view, results, **QUICK)
        asked = [self.view, offsets, self.image, self.prompt, self.alphas, *self.controls.values()]
        running = waiting.success(self.stream, asked, results, preprocess=False, **run_model(self.bench, self.lines))
        follow_end(running, lambda view: self.show(view.end()), [self.view], frame)
        self.stop.click(None, cancels=[running])
        self.reveal.click(lambda view: self.show(replace(view, opened=True)), self.view, frame, **QUICK)

    def show(self, view: View) -> Updates:
        strength = self.bench.recipes[view.request.settings.method].alpha if view.request else 1.0
        lines, problem = html.write_lines(view, strength), html.parts.problem(view.error)
        return {self.lines: lines, self.problem: problem, self.view: view}

    def begin(self, view: View) -> Updates:
        if view.phase in RUNNING:
            gr.Info("A sweep is still on its way; wait for its end, or press Stop.")
            return gr.skip()
        waiting = View(self.veiled, phase="waiting", note=wait_for_turn(self.blocks), before=view.keep())
        return {**self.show(waiting), self.curve: gr.Column(visible=False)}

    def stream(
        self, view: View, offsets: Offsets | None, image: object, prompt: object, alphas: object, *values: object
    ) -> Iterator[Updates]:
        view = replace(view, phase="reading", note="Reading the prompt ...")
        choices = dict(zip(self.controls, values, strict=True))
        with show_errors():
            yield self.show(view)
            try:
                request = parse_request("sweep", image, prompt, choices, offsets, alphas)
                view = replace(view, request=request)
                with closing(answer(self.bench, request)) as steps:
                    for step in steps:
                        view = view.advance(step)
                        yield self.show(view)
            except CmrmError as error:
                view = view.fail(str(error))
                yield {**self.show(view), self.curve: gr.Column(visible=view.phase == "done")}
                return
            picture = sweep_curve(view.rows)
            yield {
                self.curve: gr.Column(visible=True),
                self.plot: picture.figure,
                self.caption: html.parts.caption(picture.alt),
            }
