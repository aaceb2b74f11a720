"""The About tab: the method, its limits, the model, and how to cite."""

import gradio as gr

from ..files import ASSETS
from ..workbench import Workbench

LICENCE = """
### Licence
This project and its pocket model are under the MIT licence; other models are under their own.
"""


def about_tab(bench: Workbench) -> None:
    """Lay out the tab."""
    with gr.Column(elem_id="about"):
        gr.Markdown(_asset("about.md"))
        gr.Markdown(_model(bench.vlm.identity.model))
        gr.Markdown("### How to cite the method")
        gr.Markdown(f"```bibtex\n{_asset('citation.bib')}\n```")
        gr.Markdown(LICENCE)


def _model(name: str) -> str:
    if name == "pocket":
        return _asset("about-pocket.md")
    if name.startswith("local/"):
        return f"### The model\n`{name}`, from a folder of this server."
    return f"### The model\n[{name}](https://huggingface.co/{name}): its card is there."


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8").rstrip()
