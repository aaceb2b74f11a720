"""The whole page: its tabs and its endpoints."""

import gradio as gr

from ..workbench import Workbench
from .about import add_about_tab
from .anchors import add_anchors_tab
from .compare import add_compare_tab
from .endpoints import add_endpoints
from .own_offsets import Own
from .sweep import add_sweep_tab
from .why import add_why_tab

QUEUE = 80  # beyond MOST_WAITING the queue is for clicks, which are told how long it would take
UPLOADS_KEPT = 3600  # seconds, at least; looked at that often

INTRO = """
# CMRM, side by side
A vision-language model learned from text to refuse harmful requests. Put a picture beside such a request, even a blank
one, and it may answer after all: the picture moves its inner states away from those in which it learned to refuse.
**CMRM** pulls them back while the model reads your prompt, by adding a vector to each layer; nothing is trained.
Here one model answers you twice at the same time, **as it is** and **steered**. Two things are worth watching: does
steering bring the refusal back, and does it leave harmless answers alone? Pick an example and press **Run**.
"""


def build(bench: Workbench) -> gr.Blocks:
    """Return the page, its events and the endpoints of the API."""
    with gr.Blocks(
        title="CMRM, side by side", analytics_enabled=False, delete_cache=(UPLOADS_KEPT, UPLOADS_KEPT)
    ) as blocks:
        gr.Markdown(INTRO, elem_id="intro")
        own = Own(bench, blocks)
        with gr.Tabs():
            with gr.Tab("Compare"):
                compare = add_compare_tab(bench, blocks, own)
            with gr.Tab("Sweep"):
                add_sweep_tab(bench, blocks, own, compare.image, compare.prompt)
            with gr.Tab("Why"):
                add_why_tab(bench, blocks, compare.view, compare.clear)
            with gr.Tab("Anchors"):
                add_anchors_tab(bench, blocks, own)
            with gr.Tab("About"):
                add_about_tab(bench)
        own.status.render()
        add_endpoints(bench, blocks)
    return blocks.queue(max_size=QUEUE)
