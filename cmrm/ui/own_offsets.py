"""A visitor's own offsets: nobody else's answers are steered by them, and a bar above the tabs says so."""

import gradio as gr

from ..steering.offsets import Offsets
from ..workbench import Workbench
from . import html
from .events import AT_ONCE, Updates


class Own:
    """The bar above the tabs, hidden while the model's own offsets are in use, and the `offsets` (None: those).

    The page renders the `status`, which is its foot.
    """

    def __init__(self, bench: Workbench, blocks: gr.Blocks) -> None:
        self.bench = bench
        with gr.Row(visible=False, elem_id="own") as self.bar:
            self.note = gr.HTML("")
            back = gr.Button("Back to the model's own", size="sm", scale=0, min_width=200)
        self.status = gr.HTML(html.write_status(bench), render=False)
        self.offsets = gr.State(None)
        self.outputs = [self.offsets, self.bar, self.note, self.status]
        back.click(lambda: self.use(None), None, self.outputs, **AT_ONCE)
        # A page that is opened by a link looks as the one it was made on, but has no offsets of its own.
        blocks.load(self.use, self.offsets, self.outputs, **AT_ONCE)

    def use(self, offsets: Offsets | None) -> Updates:
        """Return what an event with these `outputs` sets to steer by `offsets` from now on."""
        return {
            self.offsets: offsets,
            self.bar: gr.Row(visible=offsets is not None),
            self.note: html.parts.note(_describe(offsets)) if offsets else "",
            self.status: html.write_status(self.bench, offsets),
        }


def _describe(offsets: Offsets) -> str:
    count = offsets.origin.anchors
    anchors = f"{count} anchor{'s' * (count != 1)}, {offsets.origin.estimator}"
    return f"Using your own offsets ({anchors}) for dataset-level steering, in this browser tab only."
