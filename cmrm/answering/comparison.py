"""One prompt about one image, answered by K rows in lockstep: a stream of typed steps."""

import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ..errors import CmrmError, CmrmWarning
from ..images import ImageInput, open_image
from ..model.network import Hooks, Inputs
from ..model.vlm import Vlm
from ..settings import Settings, checked_alphas, checked_layers
from ..steering.offsets import Offsets
from ..steering.reading import recording
from ..steering.steer import Steering, steer_rows
from ..steering.vectors import Prompt, Steered, Vectors
from .fluency import mean_log_probabilities
from .generation import Sampling, lockstep
from .steps import NextToken, Row, Step
from .writing import Writer

# Of `Settings`, those that are not about how offsets are made.
CHOICES = frozenset({"max_new_tokens", "temperature", "top_p", "seed", "layers", "positions", "steps"})


def compare(
    vlm: Vlm,
    image: ImageInput,
    prompt: str,
    offsets: Steering | Vectors | None,
    alphas: Sequence[float] = (1.0,),
    *,
    fluency: bool = False,
    **choices: object,
) -> Generator[Step]:
    """Answer `prompt` about `image` (None: text only) unsteered and steered, as a stream of steps.

    Row 0 is unsteered; `alphas` are those of the rows after it, all steered by `offsets`. `choices` are the settings
    named in `CHOICES`. The prompt is prefilled once for all rows. No hook stays on the model between two steps, so
    closing or dropping the stream at any time leaves it as it was. With `fluency` one more pass scores the answers at
    the end.

    Raises:
        CmrmError: bad input, before the first step.
        TypeError: another choice.
    """
    if others := sorted(choices.keys() - CHOICES):
        raise TypeError(f"compare() takes no {others[0]!r}")
    chosen = () if isinstance(alphas, (list, tuple)) and not alphas else checked_alphas(alphas)
    if chosen and offsets is None:
        raise CmrmError("There are alphas but no offsets to steer by; give offsets, or no alphas.")
    if isinstance(offsets, Offsets):
        for warning in offsets.check(vlm.identity):
            warnings.warn(warning, CmrmWarning, stacklevel=2)
    shown = Prompt(prompt, None if image is None else open_image(image))
    settings = Settings(**choices)  # type: ignore[arg-type]  # what is no such value is rejected in words
    prepared = Comparison.prepare(vlm, shown, settings, 1 + len(chosen))
    if offsets is None or not chosen:
        return prepared.answer(None, fluency=fluency)
    # In this process vectors may also be code.
    steered = Steered.by(settings, offsets, 0.0, *chosen)  # type: ignore[arg-type]
    return prepared.answer(steered, fluency=fluency)


@dataclass(frozen=True)
class Comparison:
    """A prompt that was checked and laid out, to be answered by `rows` rows of the model in this process."""

    vlm: Vlm
    inputs: Inputs
    settings: Settings
    rows: int

    @classmethod
    def prepare(cls, vlm: Vlm, prompt: Prompt, settings: Settings, rows: int) -> "Comparison":
        """Do what `engines.base.Engine.prepare` says."""
        checked_layers(settings.layers, len(vlm.layers))
        inputs = vlm.encode(prompt.text, prompt.image)
        length = inputs["input_ids"].shape[1]
        vlm.check_length(length, settings.max_new_tokens)
        fitting = max(1, int(0.8 * vlm.free_memory / vlm.network.row_bytes(length + settings.max_new_tokens)) - 1)
        if rows - 1 > fitting:
            raise CmrmError(
                f"There are {rows - 1} alphas, but memory holds {fitting} rows of this length beside the unsteered "
                "one; give fewer alphas or ask for fewer tokens."
            )
        return cls(vlm, inputs, settings, rows)

    def answer(self, steered: Steered | None, *, fluency: bool = False) -> Generator[Step]:
        """Do what `engines.base.Prepared` says."""
        chosen, vlm = self.settings, self.vlm
        stream = lockstep(
            vlm.network,
            self.inputs,
            self.rows,
            hooks=lambda step: self._hooks(steered, step),
            end_tokens=vlm.end_tokens,
            sampling=Sampling(chosen.temperature, chosen.top_p, chosen.seed),
            max_new_tokens=chosen.max_new_tokens,
            share_prefill=steered is None or steered.positions == "last",
        )
        return _write(vlm, stream, Steered.alphas(steered, self.rows), self.inputs if fluency else None)

    def next_token(self, steered: Steered, behind: Sequence[int] = ()) -> NextToken:
        """Do what `engines.base.Prepared` says."""
        vlm, network = self.vlm, self.vlm.network
        with network.enough_memory():
            context, feed = network.begin(self.inputs, self.rows)
            states = torch.zeros(self.rows, vlm.identity.layers, vlm.identity.hidden)
            logits = network.forward(feed, context, recording(vlm, states, self._hooks(steered, 0)))
            if behind:
                # Read in one pass, each token steered as its own decode step would have been.
                later = self._hooks(replace(steered, positions="all"), 1)
                ids = torch.tensor([list(behind)] * self.rows, device=vlm.device)
                logits = network.forward({"input_ids": ids}, context, later)
        return NextToken(logits[:, -1].softmax(dim=-1).cpu().numpy(), states.numpy())

    def _hooks(self, steered: Steered | None, step: int) -> Hooks:
        """Return what steers pass number `step` of an answer, each of which makes hooks of its own."""
        return steer_rows(self.vlm, None if steered is None or (step and steered.steps == "prompt") else steered)


def _write(
    vlm: Vlm, stream: Iterator[list[int | None]], alphas: tuple[float, ...], scored: Inputs | None
) -> Generator[Step]:
    start = time.perf_counter()
    writers = [Writer(vlm.tokenizer, Row(alpha)) for alpha in alphas]
    with vlm.network.enough_memory():
        # 1. A step for each token of the rows.
        for tokens in stream:
            elapsed = time.perf_counter() - start
            for writer, token in zip(writers, tokens, strict=True):
                if token is None:
                    writer.end()
                else:
                    writer.add([token], elapsed)
            yield Step(tuple(writer.row for writer in writers))
        # 2. What was cut off is judged as it stands.
        for writer in writers:
            writer.end()
        rows = [writer.row for writer in writers]
        # 3. How natural the answers are to the unsteered model, if that was asked for.
        if scored is not None:
            scores = mean_log_probabilities(vlm.network, scored, [row.ids for row in rows])
            rows = [replace(row, fluency=score) for row, score in zip(rows, scores, strict=True)]
    yield Step(tuple(rows), done=True)
