"""What the page and the API say while something takes long."""

import time

from ..progress import Progress

_SENTENCES = {
    "measuring": "Measuring offsets, pass {done} of {total} ...",
    "reading": "Reading the prompt ...",
    "answering": "Answering ...",
    "strengths": "Reading the prompt at many strengths ...",
    "parting": "Finding where the answers part ...",
    "waiting": "Waiting for the GPU ...",
}


def describe(progress: Progress) -> str:
    """Say what goes on, and how far it has come."""
    _, anchors, name = progress.stage.partition("anchors: ")
    sentence = f"Reading anchor texts, {name}: {{done}} of {{total}} ..." if anchors else _SENTENCES[progress.stage]
    return sentence.format(done=progress.done, total=progress.total)


class Countdown:
    """Says of the passes of a measurement how long those that are left will take, as far as it has seen."""

    def __init__(self) -> None:
        self._start: float | None = None

    def describe(self, progress: Progress) -> str:
        """Say which pass it is; the first that it is told of sets its clock."""
        if progress.stage != "measuring":
            return describe(progress)
        now = time.monotonic()
        self._start = self._start or now
        return describe_pass(progress, (now - self._start) / (progress.done - 1) if progress.done > 1 else None)


def describe_pass(progress: Progress, seconds: float | None) -> str:
    """Say which pass it is, and how long those that are left will take, if it is known how long one takes."""
    left = "" if seconds is None else f", about {seconds * (progress.total - progress.done):.0f} s left"
    return f"Pass {progress.done} of {progress.total}{left} ..."
