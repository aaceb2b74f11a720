"""A visitor's own offsets: nobody else's answers are steered by them, and a bar above the tabs says so."""

from dataclasses import dataclass

import gradio as gr
from gradio.components import Component

from ..steering.offsets import Offsets
from ..workbench import Workbench
from . import html
from .events import HIDDEN, Updates
from .gradio_private import offer_download


@dataclass(frozen=True)
class Own:
    """The offsets in use (None: the model's), the bar that names them and leads back, and the page's foot."""

    bench: Workbench
    offsets: gr.State
    bar: gr.Row
    note: gr.HTML
    status: gr.HTML

    def use(self, offsets: Offsets | None) -> Updates:
        """Return what an event sets to steer by `offsets` from now on."""
        return {
            self.offsets: offsets,
            self.bar: gr.Row(visible=offsets is not None),
            self.note: html.write_note(_describe(offsets)) if offsets else "",
            self.status: html.write_status(self.bench, offsets),
        }

    @property
    def outputs(self) -> list[Component]:
        """Return the outputs of an event that returns `use`."""
        return [self.offsets, self.bar, self.note, self.status]


def add_own_bar(bench: Workbench, blocks: gr.Blocks) -> Own:
    """Lay out the bar, which is hidden while the model's own offsets are in use; the page renders the `status`."""
    with gr.Row(visible=False, elem_id="own") as bar:
        note = gr.HTML("")
        back = gr.Button("Back to the model's own", size="sm", scale=0, min_width=200)
    status = gr.HTML(html.write_status(bench), render=False)
    own = Own(bench, gr.State(None), bar, note, status)
    back.click(lambda: own.use(None), None, own.outputs, queue=False, **HIDDEN)
    # A page that is opened by a link looks as the one it was made on, but has no offsets of its own.
    blocks.load(own.use, own.offsets, own.outputs, queue=False, **HIDDEN)
    return own


def offer_offsets(offsets: Offsets, blocks: gr.Blocks) -> str:
    """Return the path of a file of them that a visitor may download."""
    return offer_download(blocks, "offsets.safetensors", offsets.save)


def _describe(offsets: Offsets) -> str:
    count = offsets.origin.anchors
    anchors = f"{count} anchor{'s' * (count != 1)}, {offsets.origin.estimator}"
    return f"Using your own offsets ({anchors}) for dataset-level steering, in this browser tab only."
