"""How the served page is doing: who waits for the model, and whether anything is left behind."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr
import psutil

from ..workbench import Workbench

TURN = "model"
"""The `concurrency_id` of every event that runs the model."""


@dataclass(frozen=True)
class Queue:
    """Requests for the model: those that wait, those that run, and the mean seconds that one took."""

    waiting: int = 0
    running: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, blocks: gr.Blocks) -> "Queue":
        """Read what Gradio knows."""
        held = blocks._queue.event_queue_per_concurrency_id.get(TURN)
        if held is None:
            return cls()
        taken = [total for fn, total in blocks._queue.process_time_per_fn.items() if fn.concurrency_id == TURN]
        count = sum(total.count for total in taken)
        seconds = sum(total.process_time for total in taken) / count if count else 0.0
        return cls(len(held.queue), held.current_concurrency, round(seconds, 2))

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


def health(bench: Workbench, blocks: gr.Blocks) -> Callable[[], dict[str, Any]]:
    """Return what answers `GET /health`: the model, the queue, and what a leak would show in.

    `hooks` counts forward hooks now; while `working`, those of the pass that runs are among them.
    """
    start, hooks, process = time.monotonic(), bench.vlm.hook_count, psutil.Process(os.getpid())

    def answer() -> dict[str, Any]:
        identity, origin = bench.vlm.identity, bench.offsets.origin
        return {
            "status": "ok",
            "model": identity.model,
            "revision": identity.revision,
            "quantization": identity.quantization,
            "offsets": {"anchors": bench.anchors, "estimator": origin.estimator, "corruption": origin.corruption},
            "queue": asdict(Queue.of(blocks)),
            "working": bench.vlm.lock.locked(),
            "hooks": bench.vlm.hook_count,
            "hooks_at_start": hooks,
            "threads": threading.active_count(),
            "memory_mb": process.memory_info().rss >> 20,
            "uptime_seconds": round(time.monotonic() - start),
        }

    return answer
