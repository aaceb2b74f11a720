"""What all rows of a prompt share: read once at batch 1, kept for later requests, fanned out to rows."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from .kv_cache import empty_cache, fanned_out

if TYPE_CHECKING:
    from .vlm import Inputs, Vlm

# What configs call the token behind an image.
_CLOSING = ("vision_end_token_id", "image_end_token_id", "image_end_id", "im_end_id", "eoi_token_id", "eoi_token_index")

_TILES = "cross_attention_mask"


@dataclass
class Context:
    """What the rows of a batch have read so far: key-value cache and M-RoPE's position offsets.

    M-RoPE models keep those offsets on a module, where another prompt's pass would overwrite them.
    """

    past: DynamicCache
    rope_deltas: list[torch.Tensor | None] = field(default_factory=list)
    # Which image tiles the last token may look at, where the image is read through cross-attention.
    tiles: torch.Tensor | None = None

    @classmethod
    def empty(cls, vlm: Vlm) -> Context:
        """Return the context of a prompt of which nothing has been read."""
        past = empty_cache(vlm.model.config.get_text_config(decoder=True))
        return cls(past, [None] * len(vlm.rope_modules))

    def fan_out(self, rows: int) -> Context:
        """Return a copy of this batch-1 context for `rows` rows; this one stays as it is."""
        return Context(fanned_out(self.past, rows), list(self.rope_deltas), self.tiles)

    @property
    def nbytes(self) -> int:
        """Bytes of the cached keys, values and states, the room made ahead included."""
        held = [value for layer in self.past.layers for value in vars(layer).values()]
        stores = [value.untyped_storage() for value in held if isinstance(value, torch.Tensor)]
        return sum({store.data_ptr(): store.nbytes() for store in stores}.values())


def forward(
    vlm: Vlm,
    inputs: Inputs,
    context: Context,
    hooks: AbstractContextManager[None],
    keep: int = 1,
    independent: bool = True,
) -> torch.Tensor:
    """Run one pass with `hooks` on, under the model's lock; return the logits of the last `keep` positions.

    They are float32 `(rows, keep, vocabulary)`. `context` grows by the tokens of `inputs`. `independent`
    rows keep their bits whatever the others hold, which takes a mixture of experts more memory.
    """
    extra = {"logits_to_keep": keep} if vlm.keeps_logits else {}
    if context.tiles is not None:
        inputs = {_TILES: context.tiles[:1].expand(*inputs["input_ids"].shape, -1, -1), **inputs}
    if _TILES in inputs:
        context.tiles = inputs[_TILES][:, -1:]
    with vlm.lock, torch.no_grad():
        for module, deltas in zip(vlm.rope_modules, context.rope_deltas, strict=True):
            module.rope_deltas = deltas
        vlm.separate_experts(independent and len(inputs["input_ids"]) > 1)
        with hooks:
            output = vlm.model(**inputs, past_key_values=context.past, use_cache=True, **extra)
        context.rope_deltas = [module.rope_deltas for module in vlm.rope_modules]
    logits: torch.Tensor = output.logits[:, -keep:].float()
    return logits


def begin(vlm: Vlm, inputs: Inputs, rows: int, share: bool = True) -> tuple[Context, Inputs]:
    """Return what `rows` rows of a prompt have read, and what is left to run: its last token.

    Without `share`, or where the model can't split a prompt (`Vlm.plain_batch`), nothing has been read.
    """
    ids = inputs["input_ids"]
    if share and not vlm.plain_batch:
        return read(vlm, inputs, ids.shape[1] - 1).fan_out(rows), {"input_ids": ids[:, -1:].expand(rows, -1)}
    return Context.empty(vlm), {key: torch.cat([value] * rows) for key, value in inputs.items()}


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
            forward(vlm, {"input_ids": inputs["input_ids"][:, seen:length]}, context, nullcontext())
        else:
            context = Context.empty(vlm)
            forward(vlm, head(inputs, length), context, nullcontext())
        vlm.prefixes.keep(key, context, context.nbytes)
    return context


def image_end(vlm: Vlm, inputs: Inputs, length: int) -> int:
    """Return the position behind the last image token among the first `length` tokens, 0 for none.

    The tokens that close the image belong to it: some models count positions from there.
    """
    tokens = inputs["input_ids"][0, :length].tolist()
    end = max((place for place, token in enumerate(tokens, 1) if token == vlm.image_token), default=0)
    closing = {getattr(vlm.model.config, name, None) for name in _CLOSING}
    while 0 < end < length and tokens[end] in closing:
        end += 1
    return end


def head(inputs: Inputs, length: int) -> Inputs:
    """Return the inputs of the first `length` tokens; what is not one value a token stays whole."""
    shape = inputs["input_ids"].shape
    return {key: value[:, :length] if value.shape == shape or key == _TILES else value for key, value in inputs.items()}


def _digest(inputs: Inputs, length: int) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(head(inputs, length).items()):
        digest.update(f"{key}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
