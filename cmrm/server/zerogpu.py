"""ZeroGPU of Hugging Face Spaces: each answer is made in a forked worker, which has a GPU for a declared time.

What crosses to the worker and back is pickled; the model is not, as the worker is forked from the process
that loaded it. Workers are reused, so they must be left as they were. A visitor's Stop arrives at the next `yield`.
"""

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

import gradio as gr

from ..answering.steps import Row, Step
from ..engines.local import LocalEngine
from ..errors import CmrmError
from ..explaining.explanation import Explanation
from ..images import ImageInput
from ..progress import Progress
from ..settings import Settings
from ..steering.offsets import Offsets
from ..workbench import Workbench

Item = TypeVar("Item")
Result = TypeVar("Result")

BEAT = 0.5
MOST_SECONDS = 120
_WAITING = Progress("waiting")


@dataclass(frozen=True)
class _End(Generic[Result]):
    """What a stream returned."""

    result: Result


@dataclass(frozen=True)
class ZeroGpuWorkbench(Workbench):
    """A workbench whose model runs in a worker, by the decorated function `task`; bad input raises at the first step.

    What the methods do is said in `Workbench`.
    """

    task: Callable[..., Iterator[object]] | None = None

    def compare(
        self, image: ImageInput, prompt: str, settings: Settings | None = None, offsets: Offsets | None = None
    ) -> Generator[Step]:
        """Compare in a worker."""
        return self._send("compare", settings, 1, image, prompt, settings, offsets)

    def sweep(
        self,
        image: ImageInput,
        prompt: str,
        alphas: Sequence[float],
        settings: Settings | None = None,
        offsets: Offsets | None = None,
    ) -> Generator[Step]:
        """Sweep in a worker."""
        return self._send("sweep", settings, len(alphas), image, prompt, alphas, settings, offsets)

    def explain(
        self,
        image: ImageInput,
        prompt: str,
        settings: Settings | None = None,
        offsets: Offsets | None = None,
        answers: Sequence[Sequence[int]] | None = None,
    ) -> Generator[Progress, None, Explanation]:
        """Explain in a worker."""
        return self._send("explain", settings, 1, image, prompt, settings, offsets, answers)

    def extract(self, anchors: Sequence[str], settings: Settings | None = None) -> Generator[Progress, None, Offsets]:
        """Extract in a worker."""
        return self._send("extract", settings, len(anchors), anchors, settings)

    def _send(
        self, name: str, settings: Settings | None, count: int, *arguments: object
    ) -> Generator[Item, None, Result]:
        """Run a method in a worker; `settings` and `count` say how long it may take."""
        assert self.task
        result = None
        try:
            for item in self.task(name, settings or Settings(), count, *arguments):
                if isinstance(item, CmrmError):
                    raise item
                if isinstance(item, _End):
                    result = item.result
                else:
                    yield item  # type: ignore[misc]  # it is what the method of this name yields
        except gr.Error as error:  # no quota left, or no GPU: its message may be HTML
            reason = " ".join(re.sub(r"<[^>]+>", " ", str(error.message)).split()).rstrip(".")
            raise CmrmError(f"ZeroGPU could not answer ({reason}); try again later.") from error
        return result  # type: ignore[return-value]


def on_zero_gpu(bench: Workbench, gpu: Callable[..., object], device: str = "cuda") -> ZeroGpuWorkbench:
    """Return the workbench that answers on ZeroGPU; `gpu` is `spaces.GPU`.

    The model is loaded and probed on the CPU, and marked here for the move to the GPU that each worker makes.

    Raises:
        CmrmError: a model that is quantized, or not on the CPU.
    """
    if not isinstance(bench.engine, LocalEngine) or not bench.engine.movable:
        raise CmrmError(
            "ZeroGPU workers move the model to their GPU, which weights quantized beforehand can't follow; set "
            "CMRM_QUANTIZATION=none and CMRM_DEVICE_MAP=cpu."
        )
    bench.engine.move(device)

    def task(name: str, settings: Settings, count: int, *arguments: object) -> Iterator[object]:
        waiting = Step((Row(0.0), Row(0.0)), progress=_WAITING) if name in ("compare", "sweep") else _WAITING
        try:
            yield _End((yield from beat(lambda: getattr(bench, name)(*arguments), waiting)))
        except CmrmError as error:
            yield error  # raised, it would lose its sentence on the way back

    return ZeroGpuWorkbench(**vars(bench), task=gpu(task, duration=duration))  # type: ignore[arg-type]


def duration(name: str, settings: Settings, count: int, *_: object) -> int:
    """Return for how many seconds to ask for a GPU.

    That is for a start, for reading anchors to explain, and for each token, more of them for a sweep's `count` of
    rows; or for each of `count` anchors that is measured.
    """
    if name == "extract":
        return min(MOST_SECONDS, 30 + count // 2)
    anew = settings.estimator or settings.corruption  # offsets may have to be measured on all anchors
    start = 20 + (5 if settings.method == "sample" else 40 if anew else 0) + 30 * (name == "explain")
    return min(MOST_SECONDS, round(start + settings.max_new_tokens * (0.06 + 0.004 * count)))


def beat(stream: Callable[[], Generator[Item, None, Result]], last: Item) -> Generator[Item, None, Result]:
    """Relay a stream, and while a step takes long the `last` one again, so that a Stop can arrive meanwhile.

    Closed during a pass of the model, it waits for the end of the pass and then closes the stream.
    """

    def begin() -> Generator[Item, None, Result]:
        return (yield from stream())

    def advance() -> Item | _End[Result]:
        try:
            return next(running)
        except StopIteration as end:
            return _End(end.value)

    running = begin()
    with ThreadPoolExecutor(1) as thread:
        try:
            while True:
                coming = thread.submit(advance)
                while not wait([coming], BEAT).done:
                    yield last
                step = coming.result()
                if isinstance(step, _End):
                    return step.result
                yield (last := step)
        finally:
            thread.submit(running.close).result()
