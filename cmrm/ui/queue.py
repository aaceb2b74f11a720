"""Who waits for the model: one request runs it at a time, and the others queue."""

from dataclasses import dataclass

import gradio as gr

from .gradio_private import read_queue

TURN = "model"
ONE_AT_A_TIME = {"concurrency_id": TURN, "concurrency_limit": 1}
"""Options of every event that runs the model."""


@dataclass(frozen=True)
class Queue:
    """Requests for the model: those that wait, those that run, and the mean seconds that one took."""

    waiting: int = 0
    running: int = 0
    seconds: float = 0.0

    @classmethod
    def read(cls, blocks: gr.Blocks) -> "Queue":
        """Read what Gradio knows."""
        return cls(*read_queue(blocks, TURN))

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
