"""Steerings that a claim has to stand beside: random directions, and offsets limited to some layers."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from .offsets import Offsets
from .steering import Steering


def random_direction(offsets: Offsets, seed: int) -> Offsets:
    """Return random vectors, layer by layer as long as those of `offsets`."""
    drawn = torch.randn(offsets.values.shape, generator=torch.Generator().manual_seed(seed))
    return Offsets(drawn / drawn.norm(dim=1, keepdim=True) * offsets.values.norm(dim=1, keepdim=True), offsets.fits)


@dataclass(frozen=True)
class Limited:
    """A steering kept to some layers (None: all), so that rows of one batch can differ in their layers."""

    steering: Steering
    layers: Iterable[int] | None

    def delta(self, layer: int, state: torch.Tensor) -> torch.Tensor:
        """Return the steering's own delta in the chosen layers and zero elsewhere."""
        if self.layers is None or layer in self.layers:
            return self.steering.delta(layer, state)
        return torch.zeros_like(state)
