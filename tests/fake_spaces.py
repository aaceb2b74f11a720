"""What `spaces.GPU` does to a generator on ZeroGPU, with a forked worker and no GPU.

As in the real one: arguments and results are pickled, the worker is forked at the first call and reused, a closed
caller sets an event that the worker looks at after each `next`, and exceptions arrive as `gr.Error` with their type.
"""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import gradio as gr

fork = multiprocessing.get_context("fork")
durations: list[int] = []
workers: list[int] = []
after: Callable[[], Any] = lambda: None  # noqa: E731
told: list[Any] = []


def GPU(task, duration):  # noqa: N802
    arguments, results, stop = fork.SimpleQueue(), fork.SimpleQueue(), fork.Event()
    process = None

    def work() -> None:
        while True:
            args, options = arguments.get()
            stop.clear()
            stream = task(*args, **options)
            while True:
                try:
                    result = next(stream)
                except StopIteration:
                    break
                except Exception as error:
                    results.put(("error", type(error).__name__))
                    break
                if stop.is_set():
                    stream.close()
                    break
                results.put(("step", result))
            results.put(("end", (os.getpid(), after())))

    def handler(*args, **options):
        nonlocal process
        durations.append(duration(*args, **options))
        ForkingPickler.dumps((args, options))
        if process is None:
            process = fork.Process(target=work, daemon=True)
            process.start()
        arguments.put((args, options))
        failed = None
        ended = False
        try:
            while not ended:
                kind, value = results.get()
                if kind == "step":
                    yield value
                elif kind == "error":
                    failed = gr.Error(value, title="ZeroGPU worker error", print_exception=False)
                else:
                    ended = True
                    workers.append(value[0])
                    told.append(value[1])
        finally:
            stop.set()
            while not ended:
                kind, value = results.get()
                if kind == "end":
                    ended = True
                    workers.append(value[0])
                    told.append(value[1])
        if failed:
            raise failed

    return handler
