"""Decode K rows of one prompt in lockstep, greedily or by sampling."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from ..model.network import Hooks, Inputs, Network

Chooser = Callable[[torch.Tensor], torch.Tensor]
"""Maps float32 logits `(rows, vocabulary)` to token ids `(rows,)`."""

HooksAt = Callable[[int], Hooks]
"""Makes the hooks that are on during forward pass number `step` (0: the last prompt token)."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen: greedy at temperature 0, else by temperature and top-p.

    Each row has a generator of its own, seeded alike, so rows differ by their logits alone.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

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


def lockstep(
    network: Network,
    inputs: Inputs,
    rows: int,
    *,
    hooks: HooksAt,
    end_tokens: frozenset[int],
    sampling: Sampling,
    max_new_tokens: int,
    share_prefill: bool = True,
) -> Iterator[list[int | None]]:
    """Decode `rows` rows of one prompt together; yield each step's token ids, None for an ended row.

    With `share_prefill` all prompt tokens but the last run once, unhooked; that is exact when hooks
    touch the last prompt position only. The batch shape never changes: ended rows go on as padding.
    """
    # 1. Prefill at batch 1 and fan out to all rows; the last prompt token is left to run.
    context, feed = network.begin(inputs, rows, share_prefill)
    choose = sampling.chooser(rows)
    ended = [False] * rows
    for step in range(max_new_tokens):
        # 2. One pass for all rows, and each row's next token.
        chosen = choose(network.forward(feed, context, hooks(step))[:, -1])
        tokens = chosen.tolist()
        # 3. A row ends for good with an end token; the others go on beside its padding.
        ended = [end or token in end_tokens for end, token in zip(ended, tokens, strict=True)]
        yield [None if end else token for end, token in zip(ended, tokens, strict=True)]
        if all(ended):
            return
        feed = {"input_ids": chosen[:, None].to(network.device)}
