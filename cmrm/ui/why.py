"""The Why tab: pictures that explain the last comparison."""

from collections.abc import Iterator

import gradio as gr

from ..charts import TITLES, pictures
from ..errors import CmrmError
from ..explaining.explanation import Explanation
from ..explaining.summary import summarize
from ..progress import relay
from ..workbench import Workbench
from . import html
from .events import QUICK, Updates, follow_stop, run_model, show_errors, wait_for_turn
from .requests import Request, explain_answers
from .stages import describe
from .view import View, choose_veil, label_steering

INTRO = """
**Why do the two answers differ?** The model reads the prompt of the last run again, and some anchor texts: where
do its states at the last prompt token lie as text alone, beside the image, and steered; and where do the answers part?
"""


def add_why_tab(bench: Workbench, blocks: gr.Blocks, view: gr.State, clear: gr.Button) -> None:
    """Lay out the tab and connect its events; it explains the run in `view`, and is cleared by `clear`."""
    _Why(bench, blocks).connect(view, clear)


class _Why:
    """The tab: its components, and what its events do; `progress` is its sentence while it is at work, else ""."""

    def __init__(self, bench: Workbench, blocks: gr.Blocks) -> None:
        self.bench, self.blocks = bench, blocks
        gr.Markdown(INTRO, elem_id="why")
        with gr.Row(elem_id="why-actions"):
            self.explain = gr.Button("Explain this run", variant="primary", elem_id="explain")
            self.stop = gr.Button("Stop", variant="stop", elem_id="why-stop")
        self.note = gr.HTML("", elem_id="why-note")
        self.plots, self.captions = [], []
        with gr.Column(visible=False) as self.results:
            self.summary, self.tokens = gr.HTML(""), gr.HTML("")
            with gr.Row(elem_id="pictures"):
                for title in TITLES:
                    with gr.Column(min_width=300):
                        gr.Markdown(f"### {title}")
                        self.plots.append(gr.Plot(show_label=False, container=False))
                        self.captions.append(gr.HTML(""))
        self.reveal = gr.Button("Show what is hidden", visible="hidden", elem_id="why-reveal")
        self.progress, self.parting = gr.State(""), gr.State(None)

    def connect(self, view: gr.State, clear: gr.Button) -> None:
        frame = [self.note, self.progress, self.results]
        waiting = self.explain.click(self.begin, self.progress, frame[:2], **QUICK)
        outputs = [*frame, self.summary, self.tokens, self.parting, *self.plots, *self.captions]
        running = waiting.success(self.stream, view, outputs, **run_model(self.bench, self.note))
        follow_stop(running, self.note, self.progress)
        self.stop.click(None, cancels=[running])
        self.reveal.click(html.write_tokens, self.parting, self.tokens, **QUICK)
        clear.click(None, cancels=[running])
        cleared = {self.note: "", self.progress: "", self.results: gr.Column(visible=False)}
        clear.click(lambda: cleared, None, frame, **QUICK)

    def begin(self, progress: str) -> Updates:
        return gr.skip() if progress else self.show_progress(wait_for_turn(self.blocks))

    def stream(self, view: View) -> Iterator[Updates]:
        with show_errors():
            request = view.finished
            if request is None:
                yield self.show_error("There is no finished comparison to explain yet; run one in the Compare tab.")
                return
            try:
                stages = explain_answers(self.bench, request, [row.ids for row in view.rows[:2]])
                found = yield from relay(stages, lambda progress: self.show_progress(describe(progress)))
                yield self.show(view, request, found)
            except CmrmError as error:
                yield self.show_error(str(error))

    def show_progress(self, sentence: str) -> Updates:
        return {self.note: html.parts.note(sentence, running=True), self.progress: sentence}

    def show_error(self, sentence: str) -> Updates:
        return {self.note: html.parts.problem(sentence), self.progress: ""}

    def show(self, view: View, request: Request, found: Explanation) -> Updates:
        shown = pictures(found)
        beside = "as text alone" if request.image is None else "beside the image"
        steering = label_steering(found.method, found.alpha)
        return {
            self.note: html.parts.note(f"\u201c{request.prompt.strip()}\u201d {beside}, {steering}:"),
            self.progress: "",
            self.results: gr.Column(visible=True),
            self.summary: html.parts.summary(summarize(found)),
            self.tokens: html.write_tokens(found.parting, choose_veil(view)),
            self.parting: found.parting,
            **{plot: picture.figure for plot, picture in zip(self.plots, shown, strict=True)},
            **{caption: html.write_caption(picture) for caption, picture in zip(self.captions, shown, strict=True)},
        }
