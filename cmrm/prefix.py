"""What all rows of a prompt share: read once at batch 1, kept for later requests, fanned out to rows."""

import copy
import hashlib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from .model import Inputs, Vlm


@dataclass
class Context:
    """What the rows of a batch have read so far: key-value cache and M-RoPE's position offsets.

    M-RoPE models keep those offsets on a module, where another prompt's pass would overwrite them.
    """

    past: DynamicCache
    rope_deltas: list[torch.Tensor | None] = field(default_factory=list)

    @classmethod
    def empty(cls, vlm: Vlm) -> "Context":
        """Return the context of a prompt of which nothing has been read."""
        past = DynamicCache(config=vlm.model.config.get_text_config(decoder=True))
        return cls(past, [None] * len(vlm.rope_modules))

    def fan_out(self, rows: int) -> "Context":
        """Return a copy of this batch-1 context for `rows` rows; this one stays as it is."""
        past = copy.copy(self.past)
        # Reordering makes new keys and values; layers of other kinds update some states in place.
        past.layers = [copy.copy(one) if type(one) is DynamicLayer else copy.deepcopy(one) for one in past.layers]
        if past.get_seq_length():
            past.reorder_cache(torch.zeros(rows, dtype=torch.long))
        return Context(past, list(self.rope_deltas))

    @property
    def nbytes(self) -> int:
        """Bytes of the cached keys, values and states."""
        held = [value for layer in self.past.layers for value in vars(layer).values()]
        return sum(value.nbytes for value in held if isinstance(value, torch.Tensor))


def forward(
    vlm: Vlm, inputs: Inputs, context: Context, hooks: AbstractContextManager[None], keep: int = 1
) -> torch.Tensor:
    """Run one pass with `hooks` on, under the model's lock; return the logits of the last `keep` positions.

    They are float32 `(rows, keep, vocabulary)`. `context` grows by the tokens of `inputs`.
    """
    extra = {"logits_to_keep": keep} if vlm.keeps_logits else {}
    with vlm.lock, torch.no_grad():
        for module, deltas in zip(vlm.rope_modules, context.rope_deltas, strict=True):
            module.rope_deltas = deltas
        with hooks:
            output = vlm.model(**inputs, past_key_values=context.past, use_cache=True, **extra)
        context.rope_deltas = [module.rope_deltas for module in vlm.rope_modules]
    logits: torch.Tensor = output.logits[:, -keep:].float()
    return logits


def read(vlm: Vlm, inputs: Inputs, length: int) -> Context:
    """Return the context after the first `length` prompt tokens, at batch 1 and without hooks.

    Kept ones are used again: of the same image and prompt, or else of the same image. What is
    returned may be kept, so it must be fanned out before anything is added to it.
    """
    if not length:
        return Context.empty(vlm)
    key = _digest(inputs, length)
    context = vlm.prefixes.get(key)
    if context is None:
        seen = image_end(vlm, inputs, length)
        if 0 < seen < length:
            context = read(vlm, inputs, seen).fan_out(1)
            forward(vlm, onwards(inputs, seen, length), context, nullcontext())
        else:
            context = Context.empty(vlm)
            forward(vlm, _head(inputs, length), context, nullcontext())
        vlm.prefixes.keep(key, context, context.nbytes)
    return context


def onwards(inputs: Inputs, start: int, stop: int | None = None) -> Inputs:
    """Return what a pass over the prompt tokens from `start` to `stop` takes after those before them.

    These are their ids, and what says per token which parts of an image it attends to: a mask of more
    than two dimensions. Other inputs were used up with the image.
    """
    shape = inputs["input_ids"].shape
    masks = {key: value for key, value in inputs.items() if value.dim() > 2 and value.shape[:2] == shape}
    return {key: value[:, start:stop] for key, value in {"input_ids": inputs["input_ids"], **masks}.items()}


def answering(before: Inputs, tokens: torch.Tensor) -> Inputs:
    """Return what a pass over answer tokens `(rows, n)` takes: they see of the image what the last one before saw."""
    masks = {key: value.repeat_interleave(tokens.shape[1], dim=1) for key, value in onwards(before, -1).items()}
    return {**masks, "input_ids": tokens}


def image_end(vlm: Vlm, inputs: Inputs, length: int) -> int:
    """Return the position behind the last image token among the first `length` tokens, 0 for none."""
    tokens = inputs["input_ids"][0, :length].tolist()
    return max((place for place, token in enumerate(tokens, 1) if token == vlm.image_token), default=0)


def _head(inputs: Inputs, length: int) -> Inputs:
    shape = inputs["input_ids"].shape
    return {key: value[:, :length] if value.shape[:2] == shape else value for key, value in inputs.items()}


def _digest(inputs: Inputs, length: int) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(_head(inputs, length).items()):
        digest.update(f"{key}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
