"""What the events of all tabs share: whose turn it is, and how errors are shown."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from ..errors import CmrmError
from . import html
from .queue import ONE_AT_A_TIME, Queue
from .requests import UNEXPECTED

Updates = dict[Component, object]
"""What an event sets: values of components, or their new looks."""

IN_TURN = {"concurrency_id": "page", "concurrency_limit": 1}
MOST_WAITING = 64
HIDDEN = {"api_visibility": "private", "show_progress": "hidden"}

_log = logging.getLogger(__name__)


def run_model(*places: gr.HTML) -> dict[str, object]:
    """Return the options of a visitor's event that runs the model; while it waits, `places` show where in the queue."""
    return {**ONE_AT_A_TIME, **HIDDEN, "show_progress": "minimal", "show_progress_on": list(places)}


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
) -> None:
    """Let `function` follow a stream, however it ended.

    One that was cancelled may still paint for a moment, so what it leaves is put right only after it.
    """
    for after in (running.then, running.failure):
        after(function, inputs, outputs, **IN_TURN, **HIDDEN)


def follow_stop(running: Dependency, note: gr.HTML, progress: gr.State) -> None:
    """Say in `note` that a stream was stopped, if its `progress`, "" at the end of its work, says so."""

    def say_stopped(sentence: str) -> list[object]:
        return [html.write_note("Stopped.") if sentence else gr.skip(), ""]

    follow_end(running, say_stopped, [progress], [note, progress])


@contextmanager
def show_errors() -> Iterator[None]:
    """Show the caller what is wrong in the one sentence that there is for it."""
    try:
        yield
    except CmrmError as error:
        raise gr.Error(str(error), print_exception=False) from error
    except Exception as error:
        _log.exception("A result could not be shown.")
        raise gr.Error(UNEXPECTED, print_exception=False) from error
