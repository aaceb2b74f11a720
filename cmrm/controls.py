"""Steerings that a claim has to stand beside."""

import torch

from .offsets import Offsets


def random_direction(offsets: Offsets, seed: int) -> Offsets:
    """Return random vectors, layer by layer as long as those of `offsets`."""
    drawn = torch.randn(offsets.values.shape, generator=torch.Generator().manual_seed(seed))
    return Offsets(drawn / drawn.norm(dim=1, keepdim=True) * offsets.values.norm(dim=1, keepdim=True), offsets.fits)
