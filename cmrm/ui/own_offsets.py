"""A visitor's own offsets: nobody else's answers are steered by them, and a bar above the tabs says so."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..steering.offsets import Offsets
from . import view as page
from .events import HIDDEN


@dataclass(frozen=True)
class Own:
    """The offsets in use (None: the model's), and the bar that names them and leads back."""

    offsets: gr.State
    bar: gr.Row
    note: gr.HTML

    def using(self, offsets: Offsets | None) -> dict[Any, Any]:
        """Return what an event sets to steer by `offsets` from now on."""
        return {
            self.offsets: offsets,
            self.bar: gr.Row(visible=offsets is not None),
            self.note: page.note(_said(offsets)) if offsets else "",
        }

    @property
    def outputs(self) -> list[Any]:
        """Return the outputs of an event that returns `using`."""
        return [self.offsets, self.bar, self.note]


def own_bar(blocks: gr.Blocks) -> Own:
    """Lay out the bar, which is hidden while the model's own offsets are in use."""
    with gr.Row(visible=False, elem_id="own") as bar:
        note = gr.HTML("")
        back = gr.Button("Back to the model's own", size="sm", scale=0, min_width=200)
    own = Own(gr.State(None), bar, note)
    back.click(lambda: own.using(None), None, own.outputs, queue=False, **HIDDEN)
    # A page that is opened by a link looks as the one it was made on, but has no offsets of its own.
    blocks.load(own.using, own.offsets, own.outputs, queue=False, **HIDDEN)
    return own


def _said(offsets: Offsets) -> str:
    count = offsets.origin.anchors
    anchors = f"{count} anchor{'s' * (count != 1)}, {offsets.origin.estimator}"
    return f"Using your own offsets ({anchors}) for dataset-level steering, in this browser tab only."
