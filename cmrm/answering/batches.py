"""Many different prompts answered in one left-padded batch, each row steered for itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn.functional import pad
from transformers import LogitsProcessor

from ..judging.openings import opening_probability
from ..model.network import Hooks, Inputs
from ..model.vlm import Vlm
from .steps import Answered


def answer_batch(
    vlm: Vlm,
    inputs: Sequence[Inputs],
    steering: Hooks | None = None,
    *,
    max_new_tokens: int,
    openings: frozenset[int] = frozenset(),
) -> list[Answered]:
    """Answer prompts of different lengths by stock `generate`; `steering` is on for the length of it.

    `inputs` are what `Vlm.encode` returned, all with images of one shape or all without. Padding is on the
    left, so the last position of the first pass is each row's last prompt token.
    """
    first = _FirstLogits()
    ids = pad_together(vlm, inputs)
    whole = vlm.network.generate(
        ids,
        steering,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        # Plain greedy, as `compare` answers, whatever the checkpoint's own generation settings.
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        logits_processor=[first],
        pad_token_id=_pad(vlm),
    )
    opening = first.share_of(openings)
    rows = [_until_end(vlm, row) for row in whole[:, ids["input_ids"].shape[1] :].tolist()]
    texts = vlm.tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [Answered(tuple(row), text.strip(), chance) for row, text, chance in zip(rows, texts, opening, strict=True)]


def pad_together(vlm: Vlm, inputs: Sequence[Inputs]) -> Inputs:
    """Join the inputs of single prompts, `(1, length)` each, into one batch with padding on the left."""
    width = max(one["input_ids"].shape[1] for one in inputs)
    fill = {"input_ids": _pad(vlm)}

    def widen(key: str, value: torch.Tensor, length: int) -> torch.Tensor:
        # One value a token: ids, masks, token types; Llama 3.2 Vision's mask of tiles has further axes behind.
        per_token = value.dim() >= 2 and value.shape[:2] == (1, length) and not key.startswith("pixel")
        if not per_token:
            return value
        return pad(value, (0, 0) * (value.dim() - 2) + (width - length, 0), value=fill.get(key, 0))

    keys = inputs[0].keys()
    return {key: torch.cat([widen(key, one[key], one["input_ids"].shape[1]) for one in inputs]) for key in keys}


def group_alike(inputs: Sequence[Inputs]) -> Iterator[list[int]]:
    """Yield the indices of prompts that can share a batch: images of one shape, or none."""
    groups: dict[tuple, list[int]] = {}
    for index, one in enumerate(inputs):
        length = one["input_ids"].shape[1]
        # Joined along axis 0; axis 1 is padded where it is the prompt's length.
        shapes = tuple(
            (key, *("length" if size == length and axis == 0 else size for axis, size in enumerate(value.shape[1:])))
            for key, value in one.items()
        )
        groups.setdefault(shapes, []).append(index)
    yield from groups.values()


def _pad(vlm: Vlm) -> int:
    found = vlm.tokenizer.pad_token_id
    return int(min(vlm.end_tokens, default=0) if found is None else found)


def _until_end(vlm: Vlm, row: list[int]) -> list[int]:
    ends = (place for place, token in enumerate(row) if token in vlm.end_tokens)
    return row[: next(ends, len(row))]


class _FirstLogits(LogitsProcessor):
    """Looks at the logits of the first new token and changes nothing."""

    def __init__(self) -> None:
        self.first: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.first is None:
            self.first = scores.cpu()
        return scores

    def share_of(self, openings: frozenset[int]) -> list[float]:
        assert self.first is not None
        return opening_probability(self.first.float().softmax(dim=-1).numpy(), openings).tolist()
