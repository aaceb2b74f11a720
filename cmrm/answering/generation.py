"""Decode K rows of one prompt in lockstep, greedily or by sampling."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from ..errors import CmrmError
from ..model.network import begin, forward
from ..model.vlm import Inputs, Vlm

Chooser = Callable[[torch.Tensor], torch.Tensor]
"""Maps float32 logits `(rows, vocabulary)` to token ids `(rows,)`."""

Hooks = Callable[[int], AbstractContextManager[None]]
"""Makes the hooks that are on during forward pass number `step` (0: the last prompt token)."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: greedy at temperature 0, else by temperature and top-p.

    Each row has a generator of its own, seeded alike, so rows differ by their logits alone.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not _is_number(self.temperature) or (self.temperature and not 0.01 <= self.temperature <= 5):
            raise CmrmError(f"temperature is {self.temperature!r}, but it must be 0 (greedy), or from 0.01 to 5.")
        if not _is_number(self.top_p) or not 0 < self.top_p <= 1:
            raise CmrmError(f"top_p is {self.top_p!r}, but it must be above 0 and at most 1.")
        if type(self.seed) is not int or not 0 <= self.seed < 2**63:
            raise CmrmError(f"seed is {self.seed!r}, but it must be a whole number from 0 to 2^63 - 1.")

    def chooser(self, rows: int) -> Chooser:
        """Return a fresh chooser for one request of `rows` rows."""
        if not self.temperature:
            return lambda logits: logits.argmax(dim=-1)
        # Drawn on the CPU, so that a seed means the same on every machine.
        generators = [torch.Generator().manual_seed(self.seed) for _ in range(rows)]
        warpers = [TemperatureLogitsWarper(float(self.temperature)), TopPLogitsWarper(float(self.top_p))]

        def choose(logits: torch.Tensor) -> torch.Tensor:
            for warp in warpers:
                logits = warp(None, logits)
            drawn = zip(logits.softmax(dim=-1).cpu(), generators, strict=True)
            return torch.cat([torch.multinomial(row, 1, generator=generator) for row, generator in drawn])

        return choose


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def lockstep(
    vlm: Vlm,
    inputs: Inputs,
    rows: int,
    *,
    hooks: Hooks,
    sampling: Sampling,
    max_new_tokens: int,
    share_prefill: bool = True,
) -> Iterator[list[int | None]]:
    """Decode `rows` rows of one prompt together; yield each step's token ids, None for an ended row.

    With `share_prefill` all prompt tokens but the last run once, unhooked; that is exact when hooks
    touch the last prompt position only. The batch shape never changes: ended rows go on as padding.
    """
    context, feed = begin(vlm, inputs, rows, share_prefill)
    choose = sampling.chooser(rows)
    ended = [False] * rows
    for step in range(max_new_tokens):
        chosen = choose(forward(vlm, feed, context, hooks(step))[:, -1])
        tokens = chosen.tolist()
        ended = [end or token in vlm.end_tokens for end, token in zip(ended, tokens, strict=True)]
        yield [None if end else token for end, token in zip(ended, tokens, strict=True)]
        if all(ended):
            return
        feed = {"input_ids": chosen[:, None].to(vlm.device)}
