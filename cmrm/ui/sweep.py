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
from .compare import PRESS_RUN, Compare
from .controls import add_image, add_max_new_tokens, add_method, add_prompt
from .events import QUICK, Updates, follow_end, run_model, show_errors, wait_for_turn
from .own_offsets import Own
from .requests import answer, parse_request
from .share import fill_inputs
from .view import RUNNING, View, needs_veil

INTRO = """
**How much steering does it take?** One prompt is answered at many strengths (alpha) at once, from 0, the model as it
is. Too little leaves a harmful request answered; too much refuses harmless ones, or breaks the language.
"""


_SAME = "(...asked) => asked"
_OPENED = "view => [view, Number(document.getElementById('sweep-open').dataset.alpha)]"
_GO_TO_COMPARE = """() => {
    document.querySelector('[role=tab]').click();
    document.getElementById('conclusion').scrollIntoView({block: 'center'});
}"""


def add_sweep_tab(bench: Workbench, blocks: gr.Blocks, own: Own, compare: Compare, place: gr.Tab) -> None:
    """Lay out the tab in its `place` and connect its events; image and prompt are those of the tab to `compare`."""
    tab = _Sweep(bench, blocks)
    tab.connect(own.offsets, compare.expected)
    # The browser hands over what it has; no upload is read or written for it.
    for here, there in ((tab.image, compare.image), (tab.prompt, compare.prompt)):
        place.select(None, there, here, js=_SAME)
    gr.on([tab.image.upload, tab.image.clear], None, tab.image, compare.image, js=_SAME)
    tab.prompt.input(None, tab.prompt, compare.prompt, js=_SAME)
    inputs = compare.inputs
    opened = tab.open.click(
        lambda view, alpha: fill_inputs(_choose(view, alpha), inputs),
        [tab.view, tab.chosen],
        [*inputs.values()],
        preprocess=False,
        js=_OPENED,
        **QUICK,
    )
    opened.success(None, js=_GO_TO_COMPARE).success(None, js=PRESS_RUN)


def _choose(view: View, alpha: float) -> View:
    """Return the view of one strength."""
    assert view.request is not None, "a line that is opened was asked for"
    return replace(view, request=replace(view.request, settings=replace(view.request.settings, alpha=alpha)))


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
            with gr.Column(scale=4, min_width=260):
                self.controls = {"method": add_method(), "max_new_tokens": tokens}
                with gr.Row(elem_id="sweep-actions"):
                    self.run = gr.Button("Sweep", variant="primary", elem_id="sweep-run")
                    self.stop = gr.Button("Stop", variant="stop", elem_id="sweep-stop")
        self.problem = gr.HTML("", elem_id="sweep-problem")
        self.reveal = gr.Button("Show what is hidden", visible="hidden", elem_id="sweep-reveal")
        self.open = gr.Button("Open in Compare", visible="hidden", elem_id="sweep-open")
        self.chosen = gr.Number(visible="hidden")
        with gr.Row(elem_id="sweep-results"):
            with gr.Column(min_width=300):
                self.lines = gr.HTML(html.write_lines(empty, 1.0), elem_id="sweep-lines")
            with gr.Column(min_width=300, visible=False) as self.curve:
                gr.Markdown("### Refusal and fluency over alpha")
                self.plot = gr.Plot(show_label=False, container=False)
                self.caption = gr.HTML("")
        self.view = gr.State(empty)

    def connect(self, offsets: gr.State, expected: gr.Radio) -> None:
        frame = [self.lines, self.problem, self.view]
        results = [*frame, self.curve, self.plot, self.caption]
        starts = [self.run.click, self.prompt.submit, self.alphas.submit]
        waiting = gr.on(starts, self.begin, [self.view, expected], results, preprocess=False, **QUICK)
        asked = [self.view, offsets, self.image, self.prompt, self.alphas, *self.controls.values()]
        running = waiting.success(self.stream, asked, results, preprocess=False, **run_model(self.bench, self.lines))
        follow_end(running, lambda view: self.show(view.end()), [self.view], frame)
        self.stop.click(None, cancels=[running])
        self.reveal.click(lambda view: self.show(replace(view, opened=True)), self.view, frame, **QUICK)

    def show(self, view: View) -> Updates:
        strength = self.bench.recipes[view.request.settings.method].alpha if view.request else 1.0
        lines, problem = html.write_lines(view, strength), html.parts.problem(view.error)
        return {self.lines: lines, self.problem: problem, self.view: view}

    def begin(self, view: View, expected: str) -> Updates:
        if view.phase in RUNNING:
            gr.Info("A sweep is still on its way; wait for its end, or press Stop.")
            return gr.skip()
        note = wait_for_turn(self.blocks)
        waiting = View(self.veiled, phase="waiting", note=note, expected=expected, before=view.keep())
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
                self.caption: html.write_caption(picture),
            }
