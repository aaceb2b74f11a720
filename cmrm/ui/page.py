"""The whole page: its tabs and its endpoints."""

import gradio as gr

from ..workbench import Workbench
from . import html
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
Beside a picture, even a blank one, a model answers what it refuses as text. **CMRM** restores the refusal as it reads.
Here one model answers you twice, **as it is** and **steered**: does the refusal return, and do harmless answers stay?
"""


def build(bench: Workbench) -> gr.Blocks:
    """Return the page, its events and the endpoints of the API."""
    with gr.Blocks(
        title="CMRM, side by side", analytics_enabled=False, delete_cache=(UPLOADS_KEPT, UPLOADS_KEPT)
    ) as blocks:
        with gr.Row(elem_id="intro"):
            gr.Markdown(INTRO)
            gr.HTML(html.parts.themes(), elem_id="themes")
        own = Own(bench, blocks)
        with gr.Tabs():
            with gr.Tab("Compare"):
                compare = add_compare_tab(bench, blocks, own)
            with gr.Tab("Sweep") as sweep:
                add_sweep_tab(bench, blocks, own, compare, sweep)
            with gr.Tab("Why"):
                add_why_tab(bench, blocks, compare.view, compare.clear)
            with gr.Tab("Anchors"):
                add_anchors_tab(bench, blocks, own)
            with gr.Tab("About"):
                add_about_tab(bench)
        own.status.render()
        add_endpoints(bench, blocks)
    return blocks.queue(max_size=QUEUE)
