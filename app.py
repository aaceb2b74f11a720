"""Serve the page: `python app.py`, or `python app.py --model llava-hf/llava-1.5-7b-hf`.

Each option is also an environment variable, which is how a Space sets it.
"""

import ctypes
import os
from contextlib import suppress
from typing import Annotated

import typer

from cmrm.cli import Model, Placed, Plain, Quantized, Stored, open_workbench
from cmrm.terminal import run_commands, say

M_ARENA_MAX = -8  # of glibc's malloc.h

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def serve(
    model: Model = "pocket",
    quantization: Quantized = "auto",
    device_map: Placed = "",
    plain_template: Plain = False,
    offsets: Stored = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", envvar=["CMRM_HOST", "GRADIO_SERVER_NAME"])
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            help="Default: the first free from 7860.", envvar=["CMRM_PORT", "GRADIO_SERVER_PORT"], min=1, max=65535
        ),
    ] = None,
    mcp: Annotated[
        bool, typer.Option("--mcp", help="Also serve the endpoints as tools of an MCP server.", envvar="CMRM_MCP")
    ] = False,
) -> None:
    """See what CMRM steering does to a vision-language model, side by side in the browser."""
    zero_gpu = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "true")
    if zero_gpu:
        import spaces  # must come before torch
    say(f"Loading {model} ...")
    from cmrm.server.health import health
    from cmrm.ui import build, launch
    from cmrm.ui.requests_log import to_standard_error

    bench = open_workbench(model, quantization, device_map, plain_template, offsets)
    if zero_gpu:
        from cmrm.server.zerogpu import on_zero_gpu

        bench = on_zero_gpu(bench, spaces.GPU)
    to_standard_error()
    page = build(bench)
    host = host or ("0.0.0.0" if "SPACE_ID" in os.environ else None)
    launch(page, host, port, health=health(bench, page), mcp=mcp)


def share_arenas() -> None:
    """Let threads share two heaps: with one for each, glibc keeps tens of MB more whenever a crowd comes."""
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def main() -> None:
    """Run the app; bad input ends with one sentence and status 2."""
    share_arenas()
    run_commands(app)


if __name__ == "__main__":
    main()
