"""How the served page is doing: who waits for the model, and whether anything is left behind."""

import threading
import time
from collections.abc import Callable
from dataclasses import asdict

import gradio as gr
import psutil

from ..ui.events import Queue
from ..workbench import Workbench


def health(bench: Workbench, blocks: gr.Blocks) -> Callable[[], dict[str, object]]:
    """Return what answers `GET /health`: the model, the queue, and what a leak would show in.

    `hooks` counts forward hooks now; while `working`, those of the pass that runs are among them.
    """
    start, process = time.monotonic(), psutil.Process()
    hooks_at_start = bench.engine.health().hooks

    def answer() -> dict[str, object]:
        identity, origin, now = bench.engine.identity, bench.offsets.origin, bench.engine.health()
        return {
            "status": now.problem or "ok",
            "model": identity.model,
            "revision": identity.revision,
            "quantization": identity.quantization,
            "offsets": {"anchors": bench.anchors, "estimator": origin.estimator, "corruption": origin.corruption},
            "engine": {"at_once": bench.engine.at_once, "running": now.running, "waiting": now.waiting},
            "queue": asdict(Queue.read(blocks)),
            "working": now.working,
            "hooks": now.hooks,
            "hooks_at_start": hooks_at_start,
            "threads": threading.active_count(),
            "memory_mb": process.memory_info().rss >> 20,
            "uptime_seconds": round(time.monotonic() - start),
        }

    return answer
