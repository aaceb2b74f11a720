"""What the events of all tabs share: whose turn it is, and how errors are told."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from ..errors import CmrmError
from ..server.health import TURN, Queue
from . import view as page
from .requests import UNEXPECTED

ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": TURN, "concurrency_limit": 1}
"""Of every event that runs the model."""

IN_TURN: dict[str, Any] = {"concurrency_id": "page", "concurrency_limit": 1}
MOST_WAITING = 64
HIDDEN: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

_log = logging.getLogger(__name__)


def running_on(*places: gr.HTML) -> dict[str, Any]:
    """Return the options of a visitor's event that runs the model; while it waits, `places` show where in the queue."""
    return {**ONE_AT_A_TIME, **HIDDEN, "show_progress": "minimal", "show_progress_on": list(places)}


def turn(blocks: gr.Blocks) -> str:
    """Say that a request waits for the model.

    Raises:
        gr.Error: too many wait already.
    """
    queue = Queue.of(blocks)
    if queue.waiting >= MOST_WAITING:
        raise gr.Error(queue.busy, title="Busy", print_exception=False)
    return "Waiting for a turn ..."


def when_ended(running: Any, function: Any, inputs: Any, outputs: Any) -> None:
    """Let `function` follow a stream, however it ended.

    One that was cancelled may still paint for a moment, so what it leaves is settled only after it.
    """
    for after in (running.then, running.failure):
        after(function, inputs, outputs, **IN_TURN, **HIDDEN)


def say_if_stopped(running: Any, note: gr.HTML, progress: gr.State) -> None:
    """Say in `note` that a stream was stopped, if its `progress`, "" at the end of its work, says so."""

    def settled(said: str) -> list[Any]:
        return [page.note("Stopped.") if said else gr.skip(), ""]

    when_ended(running, settled, progress, [note, progress])


@contextmanager
def refusing() -> Iterator[None]:
    """Tell the caller what is wrong in the one sentence that there is for it."""
    try:
        yield
    except CmrmError as error:
        raise gr.Error(str(error), print_exception=False) from error
    except Exception as error:
        _log.exception("A result could not be shown.")
        raise gr.Error(UNEXPECTED, print_exception=False) from error
