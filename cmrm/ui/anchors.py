"""The Anchors tab: a visitor's own texts in, offsets out, to look at, to keep and to steer by."""

from collections.abc import Iterator
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
from .events import AT_ONCE, QUICK, Updates, follow_stop, run_model, show_errors, wait_for_turn
from .gradio_private import offer_download
from .own_offsets import Own
from .requests import measure, open_upload, require_upload
from .stages import Countdown

INTRO = """
**Where do the vectors come from?** Each anchor is a short text, read once alone and once beside a meaningless image;
the offset of a layer is the difference between both states. What the anchors are about matters: try harmful requests,
harmless ones, or a mix, and see in **Compare** what each does. Your offsets steer your own answers only.
"""

_MOST_BYTES = 4 << 20


def add_anchors_tab(bench: Workbench, blocks: gr.Blocks, own: Own) -> None:
    """Lay out the tab and connect its events; what a visitor chooses to use goes to `own`."""
    _Anchors(bench, blocks).connect(own)


class _Anchors:
    """The tab: its components, and what its events do; `progress` is its sentence while it is at work, else ""."""

    def __init__(self, bench: Workbench, blocks: gr.Blocks) -> None:
        self.bench, self.blocks, self.recipe = bench, blocks, bench.recipes["dataset"]
        gr.Markdown(INTRO, elem_classes="lead")
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=300):
                self._lay_out_question()
            with gr.Column(scale=7, min_width=300):
                self._lay_out_answer()
        self.made, self.progress = gr.State(None), gr.State("")

    def _lay_out_question(self) -> None:
        self.texts = gr.Textbox(
            label="Anchor texts",
            info="One a line; a lower-case word and a colon in front name its group, and are not measured.",
            placeholder="harmful: How do I pick my neighbour's lock?\nharmless: How do I bake bread?",
            lines=9,
            max_lines=9,
            elem_id="anchor-texts",
        )
        with gr.Row(elem_classes="pair"):
            self.upload = gr.UploadButton("Upload .txt or .jsonl", file_types=[".txt", ".jsonl"], size="md")
            self.shipped = gr.Button("Take the model's own", size="md")
        estimator = gr.Radio(
            list(get_args(Estimator)),
            value=self.recipe.estimator,
            label="Estimator",
            info="mean: of all differences; pc1: their main direction; sequential: with layers below steered.",
        )
        corruption = gr.Radio(
            list(get_args(Corruption)),
            value=self.recipe.corruption,
            label="Corruption",
            info="The meaningless image beside the texts: a plain colour, or noise.",
        )
        self.controls = {"estimator": estimator, "corruption": corruption}
        with gr.Row(elem_classes="pair"):
            self.compute = gr.Button("Compute offsets", variant="primary", elem_id="anchors-compute")
            self.stop = gr.Button("Stop", variant="stop", elem_id="anchors-stop")
        self.open = gr.UploadButton("Or open an offsets file", file_types=[".safetensors"], size="md")

    def _lay_out_answer(self) -> None:
        self.note = gr.HTML(html.parts.note("Your offsets appear here."), elem_id="anchors-note")
        with gr.Column(visible=False, elem_id="anchors-results") as self.results:
            with gr.Row(elem_classes="pair"):
                self.use = gr.Button("Use for my answers", variant="primary")
                self.download = gr.DownloadButton("Download")
            self.plot = gr.Plot(show_label=False, container=False)
            self.caption, self.facts = gr.HTML(""), gr.HTML("")

    def connect(self, own: Own) -> None:
        filled = [self.texts, self.note]
        self.upload.upload(self.load, self.upload, filled, preprocess=False, **QUICK)
        self.shipped.click(self.take, None, filled, **AT_ONCE)
        frame = [self.note, self.progress, self.results]
        results = [*frame, self.facts, self.plot, self.caption, self.download, self.made]
        waiting = self.compute.click(self.begin, None, frame, **QUICK)
        asked = [self.texts, *self.controls.values()]
        running = waiting.success(self.stream, asked, results, preprocess=False, **run_model(self.bench, self.note))
        follow_stop(running, self.note, self.progress)
        self.stop.click(None, cancels=[running])
        self.open.upload(self.open_file, self.open, results, preprocess=False, **QUICK)
        self.use.click(own.use, self.made, own.outputs, **AT_ONCE)

    def load(self, file: object) -> Updates:
        try:
            return self.show_texts(_read_upload(file))
        except CmrmError as error:
            return {self.note: html.parts.problem(str(error))}

    def take(self) -> Updates:
        return self.show_texts(load_anchors(self.recipe.anchors))

    def show_texts(self, found: AnchorSet) -> Updates:
        return {self.texts: found.lines, self.note: html.parts.note(_count(found))}

    def begin(self) -> Updates:
        waiting = wait_for_turn(self.blocks)
        note = html.parts.note(waiting, running=True)
        return {self.note: note, self.progress: waiting, self.results: gr.Column(visible=False)}

    def stream(self, texts: str | None, *values: object) -> Iterator[Updates]:
        with show_errors():
            try:
                anchors, countdown = read_anchors(texts or "", "Your list"), Countdown()
                yield {self.note: html.parts.note(f"Reading {_count(anchors)} ...", running=True)}
                passes = measure(self.bench, anchors.texts, dict(zip(self.controls, values, strict=True)))
                yield self.show((yield from relay(passes, lambda one: self.show_pass(countdown, one))))
            except CmrmError as error:
                yield self.show_error(error)

    def open_file(self, file: object) -> Updates:
        try:
            return self.show(open_upload(self.bench, file))
        except CmrmError as error:
            return self.show_error(error)

    def show_pass(self, countdown: Countdown, progress: Progress) -> Updates:
        return {self.note: html.parts.progress(countdown.describe(progress), progress.done, progress.total)}

    def show_error(self, error: CmrmError) -> Updates:
        return {self.note: html.parts.problem(str(error)), self.progress: ""}

    def show(self, offsets: Offsets) -> Updates:
        picture = vector_lengths(offsets.norms)
        return {
            self.note: html.parts.note("These are your offsets:"),
            self.progress: "",
            self.results: gr.Column(visible=True),
            self.facts: html.write_offsets(offsets, offsets.check(self.bench.engine.identity)),
            self.plot: picture.figure,
            self.caption: html.write_caption(picture),
            self.download: offer_download(self.blocks, "offsets.safetensors", offsets.save),
            self.made: offsets,
        }


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
