"""The About tab: the method, its limits, the model, and how to cite."""

import gradio as gr

from ..files import ASSETS
from ..model.identity import LOCAL
from ..workbench import Workbench

LICENCE = """
### Licence
This project and its pocket model are under the MIT licence; other models are under their own.
"""


def add_about_tab(bench: Workbench) -> None:
    """Lay out the tab."""
    with gr.Column(elem_id="about"):
        gr.Markdown(_read_asset("about.md"))
        gr.Markdown(_describe_model(bench.engine.identity.model))
        gr.Markdown("### How to cite the method")
        gr.Markdown(f"```bibtex\n{_read_asset('citation.bib')}\n```")
        gr.Markdown(LICENCE)


def _describe_model(name: str) -> str:
    if name == "pocket":
        return _read_asset("about-pocket.md")
    if name.startswith(LOCAL):
        return f"### The model\n`{name}`, from a folder of this server."
    return f"### The model\n[{name}](https://huggingface.co/{name}): its card is there."


def _read_asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8").rstrip()
