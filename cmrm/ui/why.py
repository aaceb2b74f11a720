"""The Why tab: pictures that explain the last comparison."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..answering.explain import Explanation
from ..charts import TITLES, pictures, tokens
from ..errors import CmrmError
from ..workbench import Workbench
from . import view as page
from .compare import Compare
from .events import HIDDEN, IN_TURN, refusing, running_on, say_if_stopped, turn
from .requests import explanation
from .view import View, steering_label


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


def why_tab(bench: Workbench, blocks: gr.Blocks, compare: Compare) -> None:
    """Lay out the tab and connect its events; it explains the last run of `compare`."""
    _connect(bench, blocks, compare, _lay_out())


def _lay_out() -> _Why:
    gr.Markdown(page.WHY, elem_id="why")
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


def _connect(bench: Workbench, blocks: gr.Blocks, compare: Compare, why: _Why) -> None:
    def begin(progress: str) -> Any:
        return gr.skip() if progress else _working(why, turn(blocks))

    def stream(view: View) -> Iterator[dict[Any, Any]]:
        with refusing():
            if view.phase != "done" or view.blind:
                yield _failed(why, "There is no finished comparison to explain yet; run one in the Compare tab.")
                return
            try:
                for found in explanation(bench, view.ask, [row.ids for row in view.rows[:2]]):
                    yield _working(why, found) if isinstance(found, str) else _explained(why, view, found)
            except CmrmError as error:
                yield _failed(why, str(error))

    outputs = [why.note, why.progress, why.results, why.tokens, *why.plots, *why.captions]
    begun = why.explain.click(begin, why.progress, [why.note, why.progress], **IN_TURN, **HIDDEN)
    running = begun.success(stream, compare.view, outputs, **running_on(why.note))
    say_if_stopped(running, why.note, why.progress)
    why.stop.click(None, cancels=[running])
    compare.clear.click(None, cancels=[running])
    cleared = {why.note: "", why.progress: "", why.results: gr.Column(visible=False)}
    compare.clear.click(lambda: cleared, None, [why.note, why.progress, why.results], **IN_TURN, **HIDDEN)


def _working(why: _Why, progress: str) -> dict[Any, Any]:
    return {why.note: page.note(progress, running=True), why.progress: progress}


def _failed(why: _Why, sentence: str) -> dict[Any, Any]:
    return {why.note: page.message(sentence), why.progress: ""}


def _explained(why: _Why, view: View, found: Explanation) -> dict[Any, Any]:
    shown = pictures(found)
    beside = "as text alone" if view.ask.image is None else "beside the image"
    return {
        why.note: page.note(
            f"\u201c{view.ask.prompt.strip()}\u201d {beside}, {steering_label(found.method, found.alpha)}:"
        ),
        why.progress: "",
        why.results: gr.Column(visible=True),
        why.tokens: tokens(found.parting, page.veil(view)),
        **{plot: picture.figure for plot, picture in zip(why.plots, shown, strict=True)},
        **{caption: page.caption(picture) for caption, picture in zip(why.captions, shown, strict=True)},
    }
