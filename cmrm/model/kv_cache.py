"""Keys and values that grow in place: the stock cache copies all of them at every token."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

ROOM = 64  # positions made ahead


class GrowingLayer(DynamicLayer):
    """A `DynamicLayer` that writes new positions into room made ahead; `keys` and `values` are views of it."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: torch.Tensor
        self.values: torch.Tensor
        self._rooms: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append `(rows, heads, positions, size)` and return all that is held."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self._rooms
        self.keys, keys = _append(self.keys, keys, key_states)
        self.values, values = _append(self.values, values, value_states)
        self._rooms = keys, values
        return self.keys, self.values


def _append(held: torch.Tensor, room: torch.Tensor | None, new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Write `new` behind `held`, in `room` if `held` still lies there and it is large enough."""
    start = held.shape[-2] if held.numel() else 0
    end = start + new.shape[-2]
    if room is None or held.data_ptr() != room.data_ptr() or len(held) != len(room) or end > room.shape[-2]:
        room = new.new_empty(*new.shape[:-2], end + ROOM, new.shape[-1])
        if start:
            room.narrow(-2, 0, start).copy_(held)
    room.narrow(-2, start, end - start).copy_(new)
    return room.narrow(-2, 0, end), room


def empty_cache(config: Any) -> DynamicCache:
    """Return an empty cache for a model with this text config."""
    return fan_out_cache(DynamicCache(config=config), 1)


def fan_out_cache(past: DynamicCache, rows: int) -> DynamicCache:
    """Return a copy of a batch-1 cache for `rows` rows; the given one stays as it is."""
    fanned = copy.copy(past)
    fanned.layers = [_copy_layer(layer, rows) for layer in past.layers]
    return fanned


def _copy_layer(layer: CacheLayerMixin, rows: int) -> CacheLayerMixin:
    if type(layer) not in (DynamicLayer, GrowingLayer):
        other = copy.deepcopy(layer)  # layers of other kinds update some states in place
        other.reorder_cache(torch.zeros(rows, dtype=torch.long))
        return other
    grown = GrowingLayer()
    if layer.is_initialized:
        grown.lazy_initialization(layer.keys, layer.values)
        # Views of one row: the first update copies them into room of their own.
        grown.keys, grown.values = (held.expand(rows, *held.shape[1:]) for held in (layer.keys, layer.values))
    return grown
