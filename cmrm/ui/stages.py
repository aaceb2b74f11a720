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
        now, done, total, left = time.monotonic(), progress.done, progress.total, ""
        self._start = self._start or now
        if done > 1:
            left = f", about {(now - self._start) / (done - 1) * (total - done):.0f} s left"
        return f"Pass {done} of {total}{left} ..."
