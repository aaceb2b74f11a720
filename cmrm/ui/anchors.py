"""The Anchors tab: a visitor's own texts in, offsets out, to look at, to keep and to steer by."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, get_args

import gradio as gr
from gradio.utils import get_upload_folder

from ..charts import vector_lengths
from ..errors import CmrmError
from ..settings import Corruption, Estimator
from ..steering.anchors import AnchorSet, load_anchors, read_anchors
from ..steering.offsets import Offsets
from ..workbench import Workbench
from . import view as page
from .events import HIDDEN, IN_TURN, refusing, running_on, say_if_stopped, turn
from .own_offsets import Own
from .requests import Progress, measurement, opened, uploaded

INTRO = """
**Where do the vectors come from?** Each anchor is a short text, read once alone and once beside a meaningless image;
the offset of a layer is the difference between both states. What the anchors are about matters: try harmful requests,
harmless ones, or a mix, and see in **Compare** what each does. Your offsets steer your own answers only.
"""

_FACTS = {
    "model": "Made for",
    "revision": "Revision",
    "architecture": "Architecture",
    "quantization": "Quantization",
    "estimator": "Estimator",
    "corruption": "Corruption",
    "anchors": "Anchors",
    "anchors_sha256": "SHA-256 of the anchors",
    "created": "Made at",
    "versions": "Versions",
}
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


def anchors_tab(bench: Workbench, blocks: gr.Blocks, own: Own) -> None:
    """Lay out the tab and connect its events; what a visitor chooses to use goes to `own`."""
    parts = _lay_out(bench)
    _connect_texts(bench, parts)
    _connect_offsets(bench, blocks, parts, own)


def kept(offsets: Offsets, blocks: gr.Blocks) -> str:
    """Write a file that a visitor may download, under a name that can't be guessed, and deleted as uploads are."""
    path = str(Path(get_upload_folder()) / secrets.token_hex(20) / "offsets.safetensors")
    offsets.save(path)
    blocks.upload_file_set.add(path)
    return path


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
            note = gr.HTML(page.note("Your offsets appear here."), elem_id="anchors-note")
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
    def loaded(file: Any) -> dict[Any, Any]:
        try:
            found = _read(file)
            return {parts.texts: found.lines, parts.note: page.note(_count(found))}
        except CmrmError as error:
            return {parts.note: page.message(str(error))}

    def taken() -> dict[Any, Any]:
        found = load_anchors(bench.recipes["dataset"].anchors)
        return {parts.texts: found.lines, parts.note: page.note(_count(found))}

    filled = [parts.texts, parts.note]
    parts.load.upload(loaded, parts.load, filled, preprocess=False, **IN_TURN, **HIDDEN)
    parts.shipped.click(taken, None, filled, queue=False, **HIDDEN)


def _connect_offsets(bench: Workbench, blocks: gr.Blocks, parts: _Anchors, own: Own) -> None:
    def shown(offsets: Offsets) -> dict[Any, Any]:
        picture = vector_lengths(offsets.file().norms)
        return {
            parts.note: page.note("These are your offsets:"),
            parts.progress: "",
            parts.results: gr.Column(visible=True),
            parts.facts: _facts(offsets, offsets.check(bench.vlm)),
            parts.plot: picture.figure,
            parts.caption: page.caption(picture),
            parts.download: kept(offsets, blocks),
            parts.made: offsets,
        }

    def failed(error: CmrmError) -> dict[Any, Any]:
        return {parts.note: page.message(str(error)), parts.progress: ""}

    def begin() -> dict[Any, Any]:
        waiting = turn(blocks)
        return {
            parts.note: page.note(waiting, running=True),
            parts.progress: waiting,
            parts.results: gr.Column(visible=False),
        }

    def stream(texts: Any, estimator: Any, corruption: Any) -> Iterator[dict[Any, Any]]:
        with refusing():
            try:
                anchors = read_anchors(texts or "", "Your list")
                yield {parts.note: page.note(f"Reading {_count(anchors)} ...", running=True)}
                for found in measurement(bench, anchors.texts, estimator, corruption):
                    yield shown(found) if isinstance(found, Offsets) else {parts.note: _bar(found)}
            except CmrmError as error:
                yield failed(error)

    def given(file: Any) -> dict[Any, Any]:
        try:
            return shown(opened(bench, file))
        except CmrmError as error:
            return failed(error)

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
    begun = parts.compute.click(begin, None, [parts.note, parts.progress, parts.results], **IN_TURN, **HIDDEN)
    asked = [parts.texts, parts.estimator, parts.corruption]
    running = begun.success(stream, asked, results, preprocess=False, **running_on(parts.note))
    say_if_stopped(running, parts.note, parts.progress)
    parts.stop.click(None, cancels=[running])
    parts.open.upload(given, parts.open, results, preprocess=False, **IN_TURN, **HIDDEN)
    parts.use.click(own.using, parts.made, own.outputs, queue=False, **HIDDEN)


def _read(file: Any) -> AnchorSet:
    """Read an uploaded list."""
    path = Path(uploaded(file, "list of anchors"))
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


def _bar(progress: Progress) -> str:
    return (
        f'<p class="hint running" role="status">{progress}</p>'
        f'<progress max="{progress.total}" value="{progress.done}" aria-label="Passes"></progress>'
    )


def _facts(offsets: Offsets, warnings: list[str]) -> str:
    facts = offsets.file().facts()
    rows = "".join(f"<div><dt>{label}</dt><dd>{escape(facts[name])}</dd></div>" for name, label in _FACTS.items())
    notes = "".join(f'<p class="note">{escape(warning)}</p>' for warning in warnings)
    layers, hidden = offsets.values.shape
    return (
        f'<div class="status">{notes}<dl><div><dt>Vectors</dt><dd>{layers} layers, {hidden} wide</dd></div>{rows}</dl>'
        "</div>"
    )
