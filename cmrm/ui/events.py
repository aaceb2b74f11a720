"""What the events of all tabs share: whose turn it is, who waits for the model, and how errors are shown."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from ..errors import CmrmError
from ..workbench import Workbench
from . import html
from .gradio_private import read_queue
from .requests import replace_unexpected

Updates = dict[Component, object]
"""What an event sets: values of components, or their new looks."""

MOST_WAITING = 64
_MODEL = "model"

IN_TURN = {"concurrency_id": "page", "concurrency_limit": 1}
HIDDEN = {"api_visibility": "private", "show_progress": "hidden"}
QUICK = {**IN_TURN, **HIDDEN}
"""Options of a visitor's event that needs no model, but its turn."""

AT_ONCE = {"queue": False, **HIDDEN}


@dataclass(frozen=True)
class Queue:
    """Requests for the model: those that wait, those that run, and the mean seconds that one took."""

    waiting: int = 0
    running: int = 0
    seconds: float = 0.0

    @classmethod
    def read(cls, blocks: gr.Blocks) -> "Queue":
        """Read what Gradio knows."""
        return cls(*read_queue(blocks, _MODEL))

    @property
    def ahead(self) -> int:
        """How many requests come before a new one."""
        return self.waiting + self.running

    @property
    def busy(self) -> str:
        """Say so to a request that can't even wait."""
        return f"The model is busy: {self}; try again then."

    def __str__(self) -> str:
        """Say how long a new request waits, as far as it is known."""
        return f"{self.ahead} before you" + (f", about {self.ahead * self.seconds:.0f} s" if self.seconds else "")


def take_turn(bench: Workbench) -> dict[str, object]:
    """Return the options of every event that runs the model: as many at once as its engine answers."""
    return {"concurrency_id": _MODEL, "concurrency_limit": bench.engine.at_once}


def run_model(bench: Workbench, *places: gr.HTML) -> dict[str, object]:
    """Return the options of a visitor's event that runs the model; while it waits, `places` show where in the queue."""
    return {**take_turn(bench), **HIDDEN, "show_progress": "minimal", "show_progress_on": list(places)}


def wait_for_turn(blocks: gr.Blocks) -> str:
    """Say that a request waits for the model.

    Raises:
        gr.Error: too many wait already.
    """
    queue = Queue.read(blocks)
    if queue.waiting >= MOST_WAITING:
        raise gr.Error(queue.busy, title="Busy", print_exception=False)
    return "Waiting for a turn ..."


def follow_end(
    running: Dependency, function: Callable[..., object], inputs: Sequence[Component], outputs: Sequence[Component]
) -> Dependency:
    """Let `function` follow a stream, however it ended; return what follows one that did not fail.

    One that was cancelled may still paint for a moment, so what it leaves is put right only after it.
    """
    running.failure(function, inputs, outputs, **QUICK)
    return running.then(function, inputs, outputs, **QUICK)


def follow_stop(running: Dependency, note: gr.HTML, progress: gr.State) -> None:
    """Say in `note` that a stream was stopped, if its `progress`, "" at the end of its work, says so."""

    def say_stopped(sentence: str) -> list[object]:
        return [html.parts.note("Stopped.") if sentence else gr.skip(), ""]

    follow_end(running, say_stopped, [progress], [note, progress])


@contextmanager
def show_errors() -> Iterator[None]:
    """Show the caller what is wrong in the one sentence that there is for it."""
    try:
        with replace_unexpected("A result could not be shown."):
            yield
    except CmrmError as error:
        raise gr.Error(str(error), print_exception=False) from error
