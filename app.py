"""Serve the page: `python app.py`, or `python app.py --model llava-hf/llava-1.5-7b-hf`.

Each option is also an environment variable, which is how a Space sets it.
"""

import typer

from cmrm.cli import serve
from cmrm.terminal import run_commands

page = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
page.command()(serve)

if __name__ == "__main__":
    run_commands(page)
