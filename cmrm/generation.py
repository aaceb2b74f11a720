"""Prefill a prompt once, fan it out to K rows, decode the rows in lockstep."""

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from transformers import DynamicCache, TemperatureLogitsWarper, TopPLogitsWarper

from .errors import CmrmError
from .model import Vlm

Inputs = dict[str, torch.Tensor]

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
        if not 0 <= self.temperature <= 5:
            raise CmrmError(f"temperature is {self.temperature!r}, but it must be a number from 0 to 5.")
        if not 0 < self.top_p <= 1:
            raise CmrmError(f"top_p is {self.top_p!r}, but it must be above 0 and at most 1.")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
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


def forward(vlm: Vlm, inputs: Inputs, past: DynamicCache | None, hooks: AbstractContextManager[None]) -> torch.Tensor:
    """Run one pass with `hooks` on, under the model's lock; return float32 logits `(rows, vocabulary)`.

    The logits are those of the last position. `past` grows by the tokens of `inputs`.
    """
    extra = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(vlm.model.forward).parameters else {}
    with vlm.lock, torch.no_grad(), hooks:
        output = vlm.model(**inputs, past_key_values=past, use_cache=past is not None, **extra)
    return output.logits[:, -1].float()


def new_cache(vlm: Vlm) -> DynamicCache:
    """Return an empty key-value cache for the model's text decoder."""
    return DynamicCache(config=vlm.model.config.get_text_config(decoder=True))


def prefill(vlm: Vlm, inputs: Inputs, length: int) -> DynamicCache:
    """Run the first `length` prompt tokens, image included, at batch 1 and without hooks."""
    past = new_cache(vlm)
    if length:
        total = inputs["input_ids"].shape[1]
        head = {key: value[:, :length] if _runs_along(value, total) else value for key, value in inputs.items()}
        forward(vlm, head, past, nullcontext())
    return past


def _runs_along(value: torch.Tensor, length: int) -> bool:
    return value.dim() == 2 and value.shape[1] == length


def fan_out(past: DynamicCache, rows: int, *, keep: bool = False) -> DynamicCache:
    """Return the batch-1 cache repeated for `rows` rows; with `keep` the given one stays as it is."""
    if keep:
        past = copy.deepcopy(past)
    if past.get_seq_length():
        past.reorder_cache(torch.zeros(rows, dtype=torch.long))
    return past


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
    past, feed = _shared(vlm, inputs, rows) if share_prefill else _repeated(vlm, inputs, rows)
    choose = sampling.chooser(rows)
    ended = [False] * rows
    for step in range(max_new_tokens):
        chosen = choose(forward(vlm, feed, past, hooks(step)))
        tokens = chosen.tolist()
        ended = [end or token in vlm.end_tokens for end, token in zip(ended, tokens, strict=True)]
        yield [None if end else token for end, token in zip(ended, tokens, strict=True)]
        if all(ended):
            return
        feed = {"input_ids": chosen[:, None].to(vlm.device)}


def _shared(vlm: Vlm, inputs: Inputs, rows: int) -> tuple[DynamicCache, Inputs]:
    ids = inputs["input_ids"]
    past = fan_out(prefill(vlm, inputs, ids.shape[1] - 1), rows)
    return past, {"input_ids": ids[:, -1:].expand(rows, -1)}


def _repeated(vlm: Vlm, inputs: Inputs, rows: int) -> tuple[DynamicCache, Inputs]:
    return new_cache(vlm), {key: torch.cat([value] * rows) for key, value in inputs.items()}
