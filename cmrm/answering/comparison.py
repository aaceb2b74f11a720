"""One prompt about one image, answered by K rows in lockstep: a stream of typed steps."""

import time
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from ..errors import CmrmError, CmrmWarning
from ..images import open_image
from ..judging.fluency import mean_log_probabilities
from ..judging.phrases import Verdict, verdict
from ..model.vlm import Vlm
from ..settings import Positions, Steps, checked_alphas, checked_layers
from ..steering.offsets import Offsets
from ..steering.steer import Steering, steer
from .generation import Inputs, Sampling, lockstep

MAX_NEW_TOKENS = 2048

ImageInput = Image.Image | str | Path | None


@dataclass(frozen=True)
class Row:
    """One row's answer so far, as text and as token ids.

    `seconds` run from the request's start to the row's last token. `fluency` is the mean log-probability
    of the text under the unsteered model, if asked for, once all rows have ended.
    """

    alpha: float
    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    ended: bool = False
    verdict: Verdict | None = None
    fluency: float | None = None
    ids: tuple[int, ...] = ()

    @property
    def tokens_per_second(self) -> float:
        """Return the pace of the row, the prefill included."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Step:
    """All rows after one more token each; row 0 is the unsteered one. `done` marks the last step.

    `note` says what goes on before the first token, if it takes long.
    """

    rows: tuple[Row, ...]
    done: bool = False
    note: str = ""


def compare(
    vlm: Vlm,
    image: ImageInput,
    prompt: str,
    offsets: Steering | None,
    alphas: Sequence[float] = (1.0,),
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    layers: Iterable[int] | None = None,
    positions: Positions = "last",
    steps: Steps = "prompt",
    fluency: bool = False,
) -> Generator[Step]:
    """Answer `prompt` about `image` (None: text only) unsteered and steered, as a stream of steps.

    Row 0 is unsteered; `alphas` are those of the rows after it, all steered by `offsets` (see `steer`
    for alpha, layers, positions and steps). The prompt is prefilled once for all rows. No hook stays
    on the model between two steps, so closing or dropping the stream at any time leaves it as it was.
    With `fluency` one more pass scores the answers at the end.

    Raises:
        CmrmError: bad input, before the first step.
    """
    chosen = () if isinstance(alphas, (list, tuple)) and not alphas else checked_alphas(alphas)
    if chosen and offsets is None:
        raise CmrmError("There are alphas but no offsets to steer by; give offsets, or no alphas.")
    if isinstance(offsets, Offsets):
        for warning in offsets.check(vlm):
            warnings.warn(warning, CmrmWarning, stacklevel=2)
    if type(max_new_tokens) is not int or not 1 <= max_new_tokens <= MAX_NEW_TOKENS:
        raise CmrmError(
            f"max_new_tokens is {max_new_tokens!r}, but it must be a whole number from 1 to {MAX_NEW_TOKENS}."
        )
    sampling = Sampling(temperature, top_p, seed)
    indices = checked_layers(layers, len(vlm.layers))
    inputs = vlm.encode(prompt, None if image is None else open_image(image))
    vlm.check_length(inputs["input_ids"].shape[1], max_new_tokens)
    _check_rows(vlm, inputs, max_new_tokens, len(chosen))

    def hooks(step: int) -> AbstractContextManager[None]:
        if not chosen or offsets is None or (step and steps == "prompt"):
            return nullcontext()
        return steer(vlm, offsets, (0.0, *chosen), layers=indices, positions=positions, steps=steps)

    hooks(0)  # refuses bad positions and steps before the first step
    stream = lockstep(
        vlm,
        inputs,
        1 + len(chosen),
        hooks=hooks,
        sampling=sampling,
        max_new_tokens=max_new_tokens,
        share_prefill=positions == "last",
    )
    return _steps(vlm, stream, (0.0, *chosen), inputs if fluency else None)


def _check_rows(vlm: Vlm, inputs: Inputs, max_new_tokens: int, alphas: int) -> None:
    """Refuse more rows than four fifths of the free memory hold, before the model runs out of it."""
    row = vlm.row_bytes(inputs["input_ids"].shape[1] + max_new_tokens)
    fitting = max(1, int(0.8 * vlm.free_memory / row) - 1)
    if alphas > fitting:
        raise CmrmError(
            f"There are {alphas} alphas, but memory holds {fitting} rows of this length beside the unsteered one; "
            "give fewer alphas or ask for fewer tokens."
        )


@dataclass
class _Writer:
    """Turns one row's token ids into text, holding back a half-made UTF-8 character."""

    vlm: Vlm
    row: Row

    def add(self, token: int | None, seconds: float) -> None:
        if token is not None:
            ids = (*self.row.ids, token)
            text = self._decoded(ids).rstrip("\ufffd")
            self.row = replace(self.row, text=text, ids=ids, tokens=len(ids), seconds=seconds)
        elif not self.row.ended:
            self.end()

    def end(self) -> None:
        text = self._decoded(self.row.ids)
        self.row = replace(self.row, text=text, ended=True, verdict=verdict(text))

    def _decoded(self, ids: tuple[int, ...]) -> str:
        decoded: str = self.vlm.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return decoded.lstrip()


def _steps(
    vlm: Vlm, stream: Iterator[list[int | None]], alphas: tuple[float, ...], scored: Inputs | None
) -> Generator[Step]:
    start = time.perf_counter()
    writers = [_Writer(vlm, Row(alpha)) for alpha in alphas]
    with vlm.enough_memory():
        for tokens in stream:
            elapsed = time.perf_counter() - start
            for writer, token in zip(writers, tokens, strict=True):
                writer.add(token, elapsed)
            yield Step(tuple(writer.row for writer in writers))
    for writer in writers:
        if not writer.row.ended:
            writer.end()
    rows = [writer.row for writer in writers]
    if scored is not None:
        with vlm.enough_memory():
            scores = mean_log_probabilities(vlm, scored, [row.ids for row in rows])
        rows = [replace(row, fluency=score) for row, score in zip(rows, scores, strict=True)]
    yield Step(tuple(rows), done=True)
