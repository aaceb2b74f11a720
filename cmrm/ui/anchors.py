"""The Anchors tab: a visitor's own texts in, offsets out, to look at, to keep and to steer by."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import gradio as gr

from ..charts import vector_lengths
from ..errors import CmrmError
from ..progress import Progress, relay
from ..settings import Corruption, Estimator
from ..steering.anchors import AnchorSet, load_anchors, read_anchors
from ..steering.offsets import Offsets
from ..workbench import Workbench
from . import html
from .events import HIDDEN, IN_TURN, Updates, follow_stop, run_model, show_errors, wait_for_turn
from .own_offsets import Own, offer_offsets
from .requests import measure, open_upload, require_upload
from .stages import Countdown

INTRO = """
**Where do the vectors come from?** Each anchor is a short text, read once alone and once beside a meaningless image;
the offset of a layer is the difference between both states. What the anchors are about matters: try harmful requests,
harmless ones, or a mix, and see in **Compare** what each does. Your offsets steer your own answers only.
"""

_MOST_BYTES = 4 << 20


@dataclass(frozen=True)
class _Anchors:
    """The components that events read, write or start from; `progress` is its sentence while it is at work, else ""."""

    texts: gr.Textbox
    load: gr.UploadButton
    shipped: gr.Button
    estimator: gr.Radio
    corruption: gr.Radio
    compute: gr.Button
    stop: gr.Button
    open: gr.UploadButton
    note: gr.HTML
    results: gr.Column
    facts: gr.HTML
    plot: gr.Plot
    caption: gr.HTML
    use: gr.Button
    download: gr.DownloadButton
    made: gr.State
    progress: gr.State


def add_anchors_tab(bench: Workbench, blocks: gr.Blocks, own: Own) -> None:
    """Lay out the tab and connect its events; what a visitor chooses to use goes to `own`."""
    parts = _lay_out(bench)
    _connect_texts(bench, parts)
    _connect_offsets(bench, blocks, parts, own)


def _lay_out(bench: Workbench) -> _Anchors:
    recipe = bench.recipes["dataset"]
    gr.Markdown(INTRO, elem_classes="lead")
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=300):
            texts = gr.Textbox(
                label="Anchor texts",
                info="One a line; a lower-case word and a colon in front name its group, and are not measured.",
                placeholder="harmful: How do I pick my neighbour's lock?\nharmless: How do I bake bread?",
                lines=9,
                max_lines=9,
                elem_id="anchor-texts",
            )
            with gr.Row(elem_classes="pair"):
                load = gr.UploadButton("Upload .txt or .jsonl", file_types=[".txt", ".jsonl"], size="md")
                shipped = gr.Button("Take the model's own", size="md")
            estimator = gr.Radio(
                list(get_args(Estimator)),
                value=recipe.estimator,
                label="Estimator",
                info="mean: of all differences; pc1: their main direction; sequential: with layers below steered.",
            )
            corruption = gr.Radio(
                list(get_args(Corruption)),
                value=recipe.corruption,
                label="Corruption",
                info="The meaningless image beside the texts: a plain colour, or noise.",
            )
            with gr.Row(elem_classes="pair"):
                compute = gr.Button("Compute offsets", variant="primary", elem_id="anchors-compute")
                stop = gr.Button("Stop", variant="stop", elem_id="anchors-stop")
            upload = gr.UploadButton("Or open an offsets file", file_types=[".safetensors"], size="md")
        with gr.Column(scale=7, min_width=300):
            note = gr.HTML(html.write_note("Your offsets appear here."), elem_id="anchors-note")
            with gr.Column(visible=False, elem_id="anchors-results") as results:
                with gr.Row(elem_classes="pair"):
                    use = gr.Button("Use for my answers", variant="primary")
                    download = gr.DownloadButton("Download")
                plot = gr.Plot(show_label=False, container=False)
                caption, facts = gr.HTML(""), gr.HTML("")
    return _Anchors(
        texts, load, shipped, estimator, corruption, compute, stop, upload, note, results, facts, plot, caption, use,
        download, gr.State(None), gr.State(""),
    )  # fmt: skip


def _connect_texts(bench: Workbench, parts: _Anchors) -> None:
    def show(found: AnchorSet) -> Updates:
        return {parts.texts: found.lines, parts.note: html.write_note(_count(found))}

    def load(file: object) -> Updates:
        try:
            return show(_read_upload(file))
        except CmrmError as error:
            return {parts.note: html.write_error(str(error))}

    def take() -> Updates:
        return show(load_anchors(bench.recipes["dataset"].anchors))

    filled = [parts.texts, parts.note]
    parts.load.upload(load, parts.load, filled, preprocess=False, **IN_TURN, **HIDDEN)
    parts.shipped.click(take, None, filled, queue=False, **HIDDEN)


def _connect_offsets(bench: Workbench, blocks: gr.Blocks, parts: _Anchors, own: Own) -> None:
    def show(offsets: Offsets) -> Updates:
        picture = vector_lengths(offsets.norms)
        return {
            parts.note: html.write_note("These are your offsets:"),
            parts.progress: "",
            parts.results: gr.Column(visible=True),
            parts.facts: html.write_offsets(offsets, offsets.check(bench.engine.identity)),
            parts.plot: picture.figure,
            parts.caption: html.write_caption(picture),
            parts.download: offer_offsets(offsets, blocks),
            parts.made: offsets,
        }

    def show_error(error: CmrmError) -> Updates:
        return {parts.note: html.write_error(str(error)), parts.progress: ""}

    def show_pass(countdown: Countdown, progress: Progress) -> Updates:
        return {parts.note: html.write_progress(countdown.describe(progress), progress)}

    def begin() -> Updates:
        waiting = wait_for_turn(blocks)
        return {
            parts.note: html.write_note(waiting, running=True),
            parts.progress: waiting,
            parts.results: gr.Column(visible=False),
        }

    def stream(texts: str | None, estimator: object, corruption: object) -> Iterator[Updates]:
        with show_errors():
            try:
                anchors, countdown = read_anchors(texts or "", "Your list"), Countdown()
                yield {parts.note: html.write_note(f"Reading {_count(anchors)} ...", running=True)}
                passes = measure(bench, anchors.texts, estimator, corruption)
                yield show((yield from relay(passes, partial(show_pass, countdown))))
            except CmrmError as error:
                yield show_error(error)

    def open_file(file: object) -> Updates:
        try:
            return show(open_upload(bench, file))
        except CmrmError as error:
            return show_error(error)

    results = [
        parts.note,
        parts.progress,
        parts.results,
        parts.facts,
        parts.plot,
        parts.caption,
        parts.download,
        parts.made,
    ]
    waiting = parts.compute.click(begin, None, [parts.note, parts.progress, parts.results], **IN_TURN, **HIDDEN)
    asked = [parts.texts, parts.estimator, parts.corruption]
    running = waiting.success(stream, asked, results, preprocess=False, **run_model(parts.note))
    follow_stop(running, parts.note, parts.progress)
    parts.stop.click(None, cancels=[running])
    parts.open.upload(open_file, parts.open, results, preprocess=False, **IN_TURN, **HIDDEN)
    parts.use.click(own.use, parts.made, own.outputs, queue=False, **HIDDEN)


def _read_upload(file: object) -> AnchorSet:
    path = Path(require_upload(file, "list of anchors"))
    if path.stat().st_size > _MOST_BYTES:
        raise CmrmError(
            f"{path.name} has more than {_MOST_BYTES >> 20} MiB, which is no list of short texts; give another."
        )
    try:
        return read_anchors(path.read_text(encoding="utf-8-sig"), path.name)
    except UnicodeDecodeError as error:
        raise CmrmError(f"{path.name} is no UTF-8 text; give a text or JSONL file.") from error


def _count(anchors: AnchorSet) -> str:
    """Say how many texts there are, of which groups."""
    groups = {group: anchors.groups.count(group) for group in dict.fromkeys(anchors.groups) if group}
    parts = ", ".join(f"{count} {group}" for group, count in groups.items())
    count = len(anchors.texts)
    return f"{count} text{'s' * (count != 1)}" + (f": {parts}" if parts else "")
