"""The Why tab: pictures that explain the last comparison."""

from collections.abc import Iterator
from dataclasses import dataclass

import gradio as gr

from ..charts import TITLES, pictures
from ..errors import CmrmError
from ..explaining.explanation import Explanation
from ..progress import relay
from ..workbench import Workbench
from . import html
from .events import HIDDEN, IN_TURN, Updates, follow_stop, run_model, show_errors, wait_for_turn
from .requests import Request, explain_answers
from .stages import describe
from .view import View, choose_veil, label_steering

INTRO = """
**Why do the two answers differ?** The model reads the prompt of the last run again, and some anchor texts: where
do its states at the last prompt token lie as text alone, beside the image, and steered; and where do the answers part?
"""


@dataclass(frozen=True)
class _Why:
    """The components of the tab that explains; `progress` is its sentence while it is at work, else ""."""

    explain: gr.Button
    stop: gr.Button
    note: gr.HTML
    results: gr.Column
    tokens: gr.HTML
    plots: list[gr.Plot]
    captions: list[gr.HTML]
    progress: gr.State


def add_why_tab(bench: Workbench, blocks: gr.Blocks, view: gr.State, clear: gr.Button) -> None:
    """Lay out the tab and connect its events; it explains the run in `view`, and is cleared by `clear`."""
    _connect(bench, blocks, view, clear, _lay_out())


def _lay_out() -> _Why:
    gr.Markdown(INTRO, elem_id="why")
    with gr.Row(elem_id="why-actions"):
        explain = gr.Button("Explain this run", variant="primary", elem_id="explain")
        stop = gr.Button("Stop", variant="stop", elem_id="why-stop")
    note = gr.HTML("", elem_id="why-note")
    plots, captions = [], []
    with gr.Column(visible=False) as results:
        shown = gr.HTML("")
        with gr.Row(elem_id="pictures"):
            for title in TITLES:
                with gr.Column(min_width=300):
                    gr.Markdown(f"### {title}")
                    plots.append(gr.Plot(show_label=False, container=False))
                    captions.append(gr.HTML(""))
    return _Why(explain, stop, note, results, shown, plots, captions, gr.State(""))


def _connect(bench: Workbench, blocks: gr.Blocks, view_state: gr.State, clear: gr.Button, why: _Why) -> None:
    def begin(progress: str) -> Updates:
        return gr.skip() if progress else _show_progress(why, wait_for_turn(blocks))

    def stream(view: View) -> Iterator[Updates]:
        with show_errors():
            request = view.finished
            if request is None:
                yield _show_error(why, "There is no finished comparison to explain yet; run one in the Compare tab.")
                return
            try:
                stages = explain_answers(bench, request, [row.ids for row in view.rows[:2]])
                found = yield from relay(stages, lambda progress: _show_progress(why, describe(progress)))
                yield _show_explanation(why, view, request, found)
            except CmrmError as error:
                yield _show_error(why, str(error))

    outputs = [why.note, why.progress, why.results, why.tokens, *why.plots, *why.captions]
    waiting = why.explain.click(begin, why.progress, [why.note, why.progress], **IN_TURN, **HIDDEN)
    running = waiting.success(stream, view_state, outputs, **run_model(why.note))
    follow_stop(running, why.note, why.progress)
    why.stop.click(None, cancels=[running])
    clear.click(None, cancels=[running])
    cleared = {why.note: "", why.progress: "", why.results: gr.Column(visible=False)}
    clear.click(lambda: cleared, None, [why.note, why.progress, why.results], **IN_TURN, **HIDDEN)


def _show_progress(why: _Why, sentence: str) -> Updates:
    return {why.note: html.write_note(sentence, running=True), why.progress: sentence}


def _show_error(why: _Why, sentence: str) -> Updates:
    return {why.note: html.write_error(sentence), why.progress: ""}


def _show_explanation(why: _Why, view: View, request: Request, found: Explanation) -> Updates:
    shown = pictures(found)
    beside = "as text alone" if request.image is None else "beside the image"
    steering = label_steering(found.method, found.alpha)
    return {
        why.note: html.write_note(f"\u201c{request.prompt.strip()}\u201d {beside}, {steering}:"),
        why.progress: "",
        why.results: gr.Column(visible=True),
        why.tokens: html.write_tokens(found.parting, choose_veil(view)),
        **{plot: picture.figure for plot, picture in zip(why.plots, shown, strict=True)},
        **{caption: html.write_caption(picture) for caption, picture in zip(why.captions, shown, strict=True)},
    }
