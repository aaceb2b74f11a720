"""The page served: its looks, its limits, and what else the server answers."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import gradio as gr
from fastapi.routing import APIRoute
from starlette.middleware import Middleware

from .. import ui
from ..charts import SCRIPT
from ..errors import CmrmError
from ..files import ASSETS
from ..ui.gradio_private import replace_fetching
from .downloads import fetch_for_page
from .limits import BoundedBody, say_busy

SESSIONS = 200  # kept, of visitors and of API calls, which take about 400 KB each
THREADS = 40  # Gradio's own; an answer takes one while it is made, and the page's other events need some

_CONTRAST = {  # the theme's own colours are too pale for WCAG AA: 4.5:1 for texts, 3:1 for where a control ends
    "input_border_color": "*neutral_500",
    "input_border_color_dark": "*neutral_500",
    "checkbox_border_color": "*neutral_500",
    "checkbox_border_color_dark": "*neutral_500",
    "button_secondary_border_color": "*neutral_500",
    "button_secondary_border_color_dark": "*neutral_500",
    "checkbox_label_border_color": "*neutral_500",
    "checkbox_label_border_color_dark": "*neutral_500",
    "input_border_width": "1px",
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


def launch(
    blocks: gr.Blocks,
    host: str | None = None,
    port: int | None = None,
    *,
    block: bool = True,
    health: Callable[[], dict[str, object]] | None = None,
    mcp: bool = False,
    at_once: int = 1,
) -> str:
    """Serve the page and return its address; with `block`, only when the server has ended.

    `health` answers `GET /health`; with `mcp` the endpoints are tools of an MCP server at `/gradio_api/mcp/`; `at_once`
    answers are made at once.

    Raises:
        CmrmError: the address can't be used, or MCP without the package that it needs.
    """
    if mcp and find_spec("mcp") is None:
        raise CmrmError(f'MCP needs a package that is not installed: pip install "gradio[mcp]=={gr.__version__}"')
    replace_fetching(blocks, fetch_for_page)
    # Fonts of the visitor's own system: the page must work without a network.
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    theme = gr.themes.Soft(
        primary_hue="indigo",
        neutral_hue="slate",
        font=fonts,
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    ).set(**_CONTRAST)
    page = Path(ui.__file__).parent
    try:
        _, url, _ = blocks.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=not block,
            theme=theme,
            css_paths=[page / "style.css"],
            head=f"<script>{SCRIPT}</script>",
            head_paths=[page / "head.html"],
            footer_links=["api"],
            allowed_paths=[str(ASSETS / "examples")],  # wherever it is started from
            app_kwargs={
                "middleware": [Middleware(BoundedBody)],
                "exception_handlers": {503: partial(say_busy, blocks)},
                "routes": [APIRoute("/health", health)] if health else [],
            },
            max_file_size="50mb",
            max_threads=max(THREADS, at_once + THREADS // 2),
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
