"""What a visitor takes along: both answers, the run as JSON, a link, and the runs of this visit."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from ..saved_run import described
from ..workbench import Workbench
from . import view as page
from .events import HIDDEN, IN_TURN, refusing
from .requests import Ask, uploaded
from .view import RUNNING, View

if TYPE_CHECKING:
    from .compare import Compare

Runs = tuple[View, ...]

MOST_RUNS = 20

# What is blurred on the page stays out of the clipboard.
_COPY = """async () => {
    const said = [...document.querySelectorAll('#panes .pane')].flatMap(pane => {
        const answer = pane.querySelector('.answer'), [title, subtitle] = pane.querySelector('header').children;
        if (!answer) return [];
        const hidden = getComputedStyle(answer).filter !== 'none';
        return `${title.innerText} (${subtitle.innerText})\\n${hidden ? '(hidden)' : answer.innerText}`;
    });
    if (!said.length) return 'There is no answer to copy yet.';
    try {
        await navigator.clipboard.writeText(said.join('\\n\\n'));
        return 'The answers are copied.';
    } catch {
        return 'The browser did not allow copying, which it does on pages of https and localhost only.';
    }
}"""

_SAVE = """(text) => {
    if (text) {
        const link = document.createElement('a');
        link.href = URL.createObjectURL(new Blob([text], {type: 'application/json'}));
        link.download = 'cmrm-run.json';
        link.click();
        URL.revokeObjectURL(link.href);
    }
    return '';
}"""


@dataclass(frozen=True)
class Share:
    """The components; `text` is on its way to the browser, and nothing of it is written on the server."""

    copy: gr.Button
    download: gr.Button
    text: gr.Textbox
    earlier: gr.Dropdown
    runs: gr.State

    @property
    def outputs(self) -> list[Any]:
        """Return the outputs of an event that returns `with_run`."""
        return [self.runs, self.earlier]


def share_row() -> Share:
    """Lay out the row below the answers."""
    with gr.Row(elem_id="share"):
        copy = gr.Button("Copy answers", size="md")
        download = gr.Button("Download JSON", size="md")
        gr.DeepLinkButton("Copy link", "Link copied", size="md", icon=None, elem_id="link")
        text = gr.Textbox(visible="hidden")
        earlier = gr.Dropdown([], label="Earlier runs", elem_id="earlier", visible=False)
    return Share(copy, download, text, earlier, gr.State(()))


def with_run(runs: Runs, view: View) -> list[Any]:
    """Return the runs with a finished one at their end, and the list to choose from."""
    if view.phase != "done" or view.blind or view in runs:
        return [gr.skip(), gr.skip()]
    runs = (*runs, view)[-MOST_RUNS:]
    choices = [(_name(number, one), number) for number, one in enumerate(runs)]
    return [runs, gr.Dropdown(choices[::-1], value=None, visible=True)]


def connect_share(bench: Workbench, share: Share, compare: "Compare", blocks: gr.Blocks) -> None:
    """Connect the row's events."""

    def written(view: View) -> str:
        if view.phase != "done" or view.blind:
            gr.Info("There is no finished comparison to download yet.")
            return ""
        with refusing():
            image = None if view.ask.image is None else uploaded(view.ask.image, "image")
            run = described(bench, image, view.ask.prompt, view.rows, **view.ask.options)
        return json.dumps(run, indent=2, ensure_ascii=False)

    def restored(view: View, runs: Runs, number: Any) -> list[Any]:
        if view.phase in RUNNING or not isinstance(number, int) or not 0 <= number < len(runs):
            return [gr.skip()] * len(outputs)
        return [*_inputs(runs[number].ask), *page.frame(runs[number])]

    share.copy.click(lambda said: gr.Info(said), share.text, None, js=_COPY, **IN_TURN, **HIDDEN)
    # The server forgets what it wrote, or a link would hand it on, as it does all that the components hold.
    share.download.click(written, compare.view, share.text, **IN_TURN, **HIDDEN).then(
        lambda _: "", share.text, share.text, js=_SAVE, **IN_TURN, **HIDDEN
    )
    blocks.load(lambda runs: gr.Dropdown(visible=bool(runs)), share.runs, share.earlier, queue=False, **HIDDEN)
    outputs = [*compare.settings, *compare.frame]
    share.earlier.input(
        restored, [compare.view, share.runs, share.earlier], outputs, preprocess=False, **IN_TURN, **HIDDEN
    )


def _name(number: int, view: View) -> str:
    """Name a run without its prompt, which is nobody's business who is sent a link of a later one."""
    verdicts = " / ".join(row.verdict or "" for row in view.rows[:2])
    beside = "text alone" if view.ask.image is None else "image"
    return f"{number + 1}. {view.label}, {beside}: {verdicts}"


def _inputs(ask: Ask) -> Sequence[Any]:
    """Return the settings as the components take them; an image that is no longer kept is left out."""
    values = {field.name: getattr(ask, field.name) for field in fields(ask) if field.name != "offsets"}
    path = None if ask.image is None else uploaded(ask.image, "image")
    return list({**values, "image": path if path and Path(path).is_file() else None}.values())
