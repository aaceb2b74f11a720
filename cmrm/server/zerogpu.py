"""ZeroGPU of Hugging Face Spaces: each answer is made in a forked worker, which has a GPU for a declared time.

What crosses to the worker and back is pickled; the model is not, as the worker is forked from the process
that loaded it. Workers are reused, so they must be left as they were. A visitor's Stop arrives at the next `yield`.
"""

import re
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import gradio as gr

from ..answering.comparison import MAX_NEW_TOKENS, Row, Step
from ..errors import CmrmError
from ..workbench import Workbench

T = TypeVar("T")

BEAT = 0.5
LONGEST = 120
_NOTHING: dict[str, Any] = {"explain": "Waiting for the GPU ...", "extracting": (0, 0)}


@dataclass(frozen=True)
class Refusal:
    """What is wrong with a request; an exception would lose its sentence on the way back."""

    sentence: str


def _away(name: str) -> Any:
    """Return the method `name` of a workbench, run in a worker; bad input is refused at the first step."""

    def method(self: "ZeroGpuWorkbench", *arguments: Any, **options: Any) -> Generator[Any]:
        assert self.task
        try:
            for step in self.task(name, *arguments, **options):
                if isinstance(step, Refusal):
                    raise CmrmError(step.sentence)
                yield step
        except gr.Error as error:  # no quota left, or no GPU: its message may be HTML
            said = " ".join(re.sub(r"<[^>]+>", " ", str(error.message)).split()).rstrip(".")
            raise CmrmError(f"ZeroGPU could not answer ({said}); try again later.") from error

    return method


@dataclass(frozen=True)
class ZeroGpuWorkbench(Workbench):
    """A workbench whose model runs in a worker: `task` is the decorated function."""

    task: Callable[..., Iterator[Any]] | None = None

    compare = _away("compare")
    sweep = _away("sweep")
    explain = _away("explain")
    extracting = _away("extracting")


def on_zero_gpu(bench: Workbench, gpu: Callable[..., Any], device: str = "cuda") -> ZeroGpuWorkbench:
    """Return the workbench that answers on ZeroGPU; `gpu` is `spaces.GPU`.

    The model is loaded and probed on the CPU, and marked here for the move to the GPU that each worker makes.

    Raises:
        CmrmError: a model that is quantized, or not on the CPU.
    """
    if bench.vlm.identity.quantization != "none" or bench.vlm.device.type != "cpu":
        raise CmrmError(
            "ZeroGPU workers move the model to their GPU, which weights quantized beforehand can't follow; set "
            "CMRM_QUANTIZATION=none and CMRM_DEVICE_MAP=cpu."
        )
    bench.vlm.model.to(device)

    def task(name: str, *arguments: Any, **options: Any) -> Iterator[Any]:
        nothing = _NOTHING.get(name, Step((Row(0.0), Row(0.0)), note="Waiting for the GPU ..."))
        try:
            yield from beating(lambda: getattr(bench, name)(*arguments, **options), nothing)
        except CmrmError as error:
            yield Refusal(str(error))

    return ZeroGpuWorkbench(**vars(bench), task=gpu(task, duration=duration))


def duration(name: str, first: object, _prompt: object = "", alphas: object = (), **options: Any) -> int:
    """Return for how many seconds to ask for a GPU.

    That is for a start, for reading anchors to explain, and for each token, more of them for many rows; or for
    each anchor that is measured.
    """
    if name == "extracting":
        return min(LONGEST, 30 + len(first) // 2) if isinstance(first, (list, tuple)) else LONGEST
    tokens, rows = options.get("max_new_tokens"), len(alphas) if isinstance(alphas, tuple) else 1
    tokens = tokens if isinstance(tokens, int) and 0 < tokens <= MAX_NEW_TOKENS else 0  # else it is refused
    anew = options.get("estimator") or options.get("corruption")  # offsets may have to be measured on all anchors
    start = 20 + (5 if options.get("method") == "sample" else 40 if anew else 0) + 30 * (name == "explain")
    return min(LONGEST, round(start + tokens * (0.06 + 0.004 * rows)))


def beating(steps: Callable[[], Iterator[T]], last: T) -> Iterator[T]:
    """Yield steps, and while one takes long the `last` one again, so that a Stop can arrive meanwhile.

    Closed during a pass of the model, it waits for the end of the pass and then closes the stream.
    """

    def stream() -> Generator[T]:
        yield from steps()

    running = stream()
    with ThreadPoolExecutor(1) as thread:
        try:
            while True:
                coming = thread.submit(next, running, None)
                while not wait([coming], BEAT).done:
                    yield last
                if (step := coming.result()) is None:
                    return
                yield (last := step)
        finally:
            thread.submit(running.close).result()
