"""What a visitor takes along: both answers, the run as JSON, a link, and the runs of this visit."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import gradio as gr
from gradio.components import Component

from ..saved_run import write_run
from ..settings import format_layers
from ..workbench import Workbench
from . import html
from .events import AT_ONCE, QUICK, show_errors
from .view import RUNNING, View

Runs = tuple[View, ...]

MOST_RUNS = 20

_COPY, _SAVE = (Path(__file__).with_name(name).read_text("utf-8") for name in ("copy_answers.js", "save_run.js"))


class Share:
    """The row below the answers; `text` is on its way to the browser, and nothing of it is written on the server.

    `outputs` are those of an event that returns `add_run`.
    """

    def __init__(self) -> None:
        with gr.Row(elem_id="share"):
            self.copy = gr.Button("Copy answers", size="md")
            self.download = gr.Button("Download JSON", size="md")
            gr.DeepLinkButton("Copy link", "Link copied", size="md", icon=None, elem_id="link")
            gr.HTML(html.parts.caption("Who has the link sees the prompt, the picture and the answers."))
            self.text = gr.Textbox(visible="hidden")
            self.earlier = gr.Dropdown([], label="Earlier runs", elem_id="earlier", visible=False)
        self.runs = gr.State(())
        self.outputs = [self.runs, self.earlier]

    def connect(
        self,
        bench: Workbench,
        blocks: gr.Blocks,
        view_state: gr.State,
        inputs: Mapping[str, Component],
        frame: Sequence[Component],
    ) -> None:
        """Connect the events: what is shown is in `view_state`, and an earlier run goes back to `inputs` and `frame`.

        The inputs are called as the parts of a request: "image", "prompt", "expected", and the settings by name.
        """

        def write(view: View) -> str:
            request = view.finished
            if request is None:
                gr.Info("There is no finished comparison to download yet.")
                return ""
            image = None if request.image is None else Path(request.image)
            with show_errors():
                run = write_run(bench, image, request.prompt, request.settings, view.rows, request.offsets)
            return json.dumps(run, indent=2, ensure_ascii=False)

        def restore(view: View, runs: Runs, number: object) -> list[object]:
            if view.phase in RUNNING or not isinstance(number, int) or not 0 <= number < len(runs):
                return [gr.skip()] * len(outputs)
            return [*fill_inputs(runs[number], inputs), *html.write_frame(runs[number])]

        self.copy.click(lambda sentence: gr.Info(sentence), self.text, None, js=_COPY, **QUICK)
        # The server forgets what it wrote, or a link would hand it on, as it does all that the components hold.
        written = self.download.click(write, view_state, self.text, **QUICK)
        written.then(lambda _: "", self.text, self.text, js=_SAVE, **QUICK)
        blocks.load(lambda runs: gr.Dropdown(visible=bool(runs)), self.runs, self.earlier, **AT_ONCE)
        outputs = [*inputs.values(), *frame]
        self.earlier.input(restore, [view_state, self.runs, self.earlier], outputs, preprocess=False, **QUICK)


def add_run(runs: Runs, view: View) -> list[object]:
    """Return the runs with a finished one at their end, and the list to choose from."""
    view = replace(view, before=None)
    if view.finished is None or view.error or view in runs:
        return [gr.skip(), gr.skip()]
    runs = (*runs, view)[-MOST_RUNS:]
    choices = [(_name(number, one), number) for number, one in enumerate(runs)]
    return [runs, gr.Dropdown(choices[::-1], value=None, visible=True)]


def _name(number: int, view: View) -> str:
    """Name a run without its prompt, which is nobody's business who is sent a link of a later one."""
    verdicts = " / ".join(row.verdict or "" for row in view.rows[:2])
    beside = "image" if view.request and view.request.image else "text alone"
    return f"{number + 1}. {view.label}, {beside}: {verdicts}"


def fill_inputs(view: View, inputs: Mapping[str, Component]) -> list[object]:
    """Return what was asked as the components take it; an image that is no longer kept is left out."""
    request = view.request
    assert request is not None, "a run that is kept was asked for"
    kept = request.image is not None and Path(request.image).is_file()
    values = {
        **request.settings.json(),
        "layers": format_layers(request.settings.layers),
        "prompt": request.prompt,
        "expected": view.expected,
        "image": request.image if kept else None,
    }
    # What was left to the recipe is what a control begins with.
    return [one.value if name != "image" and values[name] is None else values[name] for name, one in inputs.items()]
