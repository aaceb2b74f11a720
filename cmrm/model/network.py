"""A network and its one forward pass, under one lock: prompts read once at batch 1, kept, and fanned out to rows."""

from __future__ import annotations

import hashlib
import inspect
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from ..errors import OutOfMemoryError
from ..lru import Lru
from .kv_cache import empty_cache, fan_out_cache
from .placement import device_of, total_memory

Inputs = dict[str, torch.Tensor]
Hooks = AbstractContextManager[None]

# What configs call the token behind an image.
_CLOSING = ("vision_end_token_id", "image_end_token_id", "image_end_id", "im_end_id", "eoi_token_id", "eoi_token_index")

_TILES = "cross_attention_mask"
# The share of the machine's memory that kept prompt prefixes may take.
_PREFIX_SHARE = 1 / 16


@dataclass
class Context:
    """What the rows of a batch have read so far: key-value cache and M-RoPE's position offsets.

    M-RoPE models keep those offsets on a module, where another prompt's pass would overwrite them.
    """

    past: DynamicCache
    rope_deltas: list[torch.Tensor | None] = field(default_factory=list)
    # Which image tiles the last token may look at, where the image is read through cross-attention.
    tiles: torch.Tensor | None = None

    def fan_out(self, rows: int) -> Context:
        """Return a copy of this batch-1 context for `rows` rows; this one stays as it is."""
        return Context(fan_out_cache(self.past, rows), list(self.rope_deltas), self.tiles)

    @property
    def nbytes(self) -> int:
        """Bytes of the cached keys, values and states, the room made ahead included."""
        held = [value for layer in self.past.layers for value in vars(layer).values()]
        stores = [value.untyped_storage() for value in held if isinstance(value, torch.Tensor)]
        return sum({store.data_ptr(): store.nbytes() for store in stores}.values())


class Network:
    """A model of transformers whose passes all requests share.

    `lock` guards a single forward pass: hooks are on the model only while one holds it, so that requests may
    interleave pass by pass. `plain_batch` says why every request repeats the whole prompt in each row instead of
    sharing one prefill, "" if it shares; `prefixes` are contexts kept for later requests.
    """

    def __init__(self, model: PreTrainedModel):
        # transformers adds inert hooks of its own at a model's first forward; now, they count as "before".
        maybe_install_capturing_hooks(model)
        self.model = model.eval()
        self.lock = threading.Lock()
        self.plain_batch = ""
        self.prefixes: Lru[Context] = Lru(int(_PREFIX_SHARE * total_memory(self.device)))
        self.rope_modules = [module for module in model.modules() if hasattr(module, "rope_deltas")]
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._experts = _expert_kernels(model)

    @property
    def config(self) -> PretrainedConfig:
        """Return the config of the text decoder."""
        return self.model.config.get_text_config(decoder=True)

    @property
    def device(self) -> torch.device:
        """The device that takes the token ids."""
        return device_of(self.model.get_input_embeddings())

    @property
    def hook_count(self) -> int:
        """How many forward hooks are on the whole model now."""
        return sum(len(module._forward_hooks) for module in self.model.modules())

    @property
    def image_token(self) -> int | None:
        """Token id that stands for a piece of the image."""
        config = self.model.config
        return getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)

    def row_bytes(self, length: int) -> int:
        """Return about how many bytes one row of `length` tokens takes: keys, values, and its logits."""
        layers = self.config.per_layer_config or [self.config] * self.config.num_hidden_layers
        return length * sum(map(_cached_width, layers)) * self.model.dtype.itemsize + 8 * self.config.vocab_size

    @contextmanager
    def enough_memory(self) -> Iterator[None]:
        """Turn running out of memory into an error with a sentence, and forget kept prefixes: the next needs room.

        Raises:
            OutOfMemoryError: memory ran out inside the block.
        """
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not _ran_out(error):
                raise
            self.prefixes.clear()
            raise OutOfMemoryError(
                "The model ran out of memory on this request; ask for fewer alphas or tokens, or for a shorter prompt."
            ) from error

    def empty_context(self) -> Context:
        """Return the context of a prompt of which nothing has been read."""
        return Context(empty_cache(self.config), [None] * len(self.rope_modules))

    def forward(
        self, inputs: Inputs, context: Context, hooks: Hooks | None = None, keep: int = 1, independent: bool = True
    ) -> torch.Tensor:
        """Run one pass with `hooks` on, under the lock; return the logits of the last `keep` positions.

        They are float32 `(rows, keep, vocabulary)`. `context` grows by the tokens of `inputs`. `independent`
        rows keep their bits whatever the others hold, which takes a mixture of experts more memory.
        """
        extra = {"logits_to_keep": keep} if self._keeps_logits else {}
        if context.tiles is not None:
            inputs = {_TILES: context.tiles[:1].expand(*inputs["input_ids"].shape, -1, -1), **inputs}
        if _TILES in inputs:
            context.tiles = inputs[_TILES][:, -1:]
        with self.lock, torch.no_grad():
            # 1. Positions are those of this prompt, not of whichever ran last.
            for module, deltas in zip(self.rope_modules, context.rope_deltas, strict=True):
                module.rope_deltas = deltas
            self._separate_experts(independent and len(inputs["input_ids"]) > 1)
            # 2. Hooks are on for the length of the pass alone.
            with hooks or nullcontext():
                output = self.model(**inputs, past_key_values=context.past, use_cache=True, **extra)
            # 3. What the model noted of positions goes with the context.
            context.rope_deltas = [module.rope_deltas for module in self.rope_modules]
        logits: torch.Tensor = output.logits[:, -keep:].float()
        return logits

    def generate(self, inputs: Inputs, hooks: Hooks | None = None, **options: Any) -> torch.Tensor:
        """Run stock `generate` with `hooks` on, under the lock; return its token ids, prompts included."""
        with self.lock, torch.no_grad(), hooks or nullcontext():
            self._separate_experts(False)
            answers: torch.Tensor = self.model.generate(**inputs, **options)
        return answers

    def begin(self, inputs: Inputs, rows: int, share: bool = True) -> tuple[Context, Inputs]:
        """Return what `rows` rows of a prompt have read, and what is left to run: its last token.

        Without `share`, or where the model can't split a prompt (`plain_batch`), nothing has been read.
        """
        ids = inputs["input_ids"]
        if share and not self.plain_batch:
            return self.read(inputs, ids.shape[1] - 1).fan_out(rows), {"input_ids": ids[:, -1:].expand(rows, -1)}
        return self.empty_context(), {key: torch.cat([value] * rows) for key, value in inputs.items()}

    def read(self, inputs: Inputs, length: int) -> Context:
        """Return the context after the first `length` prompt tokens, at batch 1 and without hooks.

        Kept ones are used again: of the same image and prompt, or else of the same image. What is
        returned may be kept, so it must be fanned out before anything is added to it.
        """
        if not length:
            return self.empty_context()
        key = _digest(inputs, length)
        context = self.prefixes.get(key)
        if context is None:
            seen = self.image_end(inputs, length)
            if 0 < seen < length:
                # The image by itself first: another prompt about it needs no second look.
                context = self.read(inputs, seen).fan_out(1)
                self.forward({"input_ids": inputs["input_ids"][:, seen:length]}, context)
            else:
                context = self.empty_context()
                self.forward(first_tokens(inputs, length), context)
            self.prefixes.keep(key, context, context.nbytes)
        return context

    def image_end(self, inputs: Inputs, length: int) -> int:
        """Return the position behind the last image token among the first `length` tokens, 0 for none.

        The tokens that close the image belong to it: some models count positions from there.
        """
        tokens = inputs["input_ids"][0, :length].tolist()
        end = max((place for place, token in enumerate(tokens, 1) if token == self.image_token), default=0)
        closing = {getattr(self.model.config, name, None) for name in _CLOSING}
        while 0 < end < length and tokens[end] in closing:
            end += 1
        return end

    def _separate_experts(self, on: bool) -> None:
        """Let each token of a mixture of experts be computed by itself, so that no row's rounding depends on others."""
        if self._experts:
            self.model.set_experts_implementation("batched_mm" if on else self._experts)


def first_tokens(inputs: Inputs, length: int) -> Inputs:
    """Return the inputs of the first `length` tokens; what is not one value a token stays whole."""
    shape = inputs["input_ids"].shape
    return {key: value[:, :length] if value.shape == shape or key == _TILES else value for key, value in inputs.items()}


def _digest(inputs: Inputs, length: int) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(first_tokens(inputs, length).items()):
        digest.update(f"{key}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _ran_out(error: BaseException) -> bool:
    """Whether a GPU's memory or, by the words of torch's allocator for it, the machine's ran out."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or should_reduce_batch_size(error)


def _expert_kernels(model: PreTrainedModel) -> dict[str, str | None]:
    """How a mixture of experts is computed by default, empty where there is none."""
    models = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    return model.get_experts_implementation() if any(m._can_set_experts_implementation() for m in models) else {}


def _cached_width(layer: PretrainedConfig) -> int:
    """How many numbers a layer keeps of a token: keys and values."""
    heads = getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads
    width = getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads
    return int(2 * heads * width)
