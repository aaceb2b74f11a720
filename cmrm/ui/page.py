"""The whole page: its tabs, its endpoints, and how it is served."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi.routing import APIRoute

from ..errors import CmrmError
from ..server.downloads import bound_downloads
from ..server.limits import limits
from ..workbench import Workbench
from . import view as page
from .about import about_tab
from .anchors import anchors_tab
from .compare import compare_tab
from .endpoints import add_endpoints
from .own_offsets import own_bar
from .sweep import sweep_tab
from .why import why_tab

QUEUE = 80  # beyond MOST_WAITING the queue is for clicks, which are told how long it would take
SESSIONS = 200  # kept, of visitors and of API calls, which take about 400 KB each
UPLOADS_KEPT = 3600  # seconds, at least; looked at that often

_CONTRAST = {  # the theme's own colours are too pale for WCAG AA
    "block_title_text_color": "*primary_700",
    "block_label_text_color": "*primary_700",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_hover": "*primary_700",
    "button_primary_background_fill_dark": "*primary_600",
    "button_primary_background_fill_hover_dark": "*primary_700",
    "checkbox_label_background_fill_selected": "*primary_600",
    "block_info_text_color": "*neutral_600",
    "block_info_text_color_dark": "*neutral_300",
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_300",
    "link_text_color_dark": "*primary_300",
    "link_text_color_visited_dark": "*primary_300",
    "link_text_color_hover_dark": "*primary_200",
}


def build(bench: Workbench) -> gr.Blocks:
    """Return the page, its events and the endpoints of the API."""
    with gr.Blocks(
        title="CMRM, side by side", analytics_enabled=False, delete_cache=(UPLOADS_KEPT, UPLOADS_KEPT)
    ) as blocks:
        gr.Markdown(page.INTRO, elem_id="intro")
        own = own_bar(blocks)
        with gr.Tabs():
            with gr.Tab("Compare"):
                compare = compare_tab(bench, blocks, own)
            with gr.Tab("Sweep"):
                sweep_tab(bench, blocks, compare, own)
            with gr.Tab("Why"):
                why_tab(bench, blocks, compare)
            with gr.Tab("Anchors"):
                anchors_tab(bench, blocks, own)
            with gr.Tab("About"):
                about_tab(bench)
        gr.HTML(page.status(bench))
        add_endpoints(bench, blocks)
    bound_downloads(blocks)
    return blocks.queue(max_size=QUEUE)


def launch(
    blocks: gr.Blocks,
    host: str | None = None,
    port: int | None = None,
    *,
    block: bool = True,
    health: Callable[[], dict[str, Any]] | None = None,
    mcp: bool = False,
) -> str:
    """Serve the page and return its address; with `block`, only when the server has ended.

    `health` answers `GET /health`; with `mcp` the endpoints are tools of an MCP server at `/gradio_api/mcp/`.

    Raises:
        CmrmError: the address can't be used, or MCP without the package that it needs.
    """
    if mcp and find_spec("mcp") is None:
        raise CmrmError(f'MCP needs a package that is not installed: pip install "gradio[mcp]=={gr.__version__}"')
    # Fonts of the visitor's own system: the page must work without a network.
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    theme = gr.themes.Soft(
        primary_hue="indigo",
        neutral_hue="slate",
        font=fonts,
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    ).set(**_CONTRAST)
    try:
        _, url, _ = blocks.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=not block,
            theme=theme,
            css_paths=[Path(__file__).with_name("style.css")],
            head_paths=[Path(__file__).with_name("head.html")],
            footer_links=["api"],
            app_kwargs={**limits(blocks), "routes": [APIRoute("/health", health)] if health else []},
            max_file_size="50mb",
            enable_monitoring=False,
            state_session_capacity=SESSIONS,
            run_history=False,
            ssr_mode=False,
            mcp_server=mcp,
            show_error=True,
        )
    except OSError as error:
        raise CmrmError(
            f"The page can't be served on {host or 'this host'}, port {port or 'any of 7860 to 7959'}: "
            "the port is taken, or the host is another machine; choose others."
        ) from error
    return str(url)
