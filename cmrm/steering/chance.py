"""Vectors by chance, as long as offsets: what a claim about CMRM has to stand beside."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import normalize

from .offsets import Offsets


def random_direction(offsets: Offsets, seed: int) -> Offsets:
    """Return random vectors, layer by layer as long as those of `offsets`."""
    return _as_long_as(offsets, torch.randn(offsets.values.shape, generator=torch.Generator().manual_seed(seed)))


def sign_flip(anchors: Sequence[Offsets], offsets: Offsets, seed: int) -> Offsets:
    """Return the mean of s_i d_i over anchors, s_i = +1 or -1 at random, layer by layer as long as `offsets`.

    `anchors` holds each anchor's own offsets d_i (`extract_each`): h_t - h_c, or for sequential
    ones the gap that is left when that anchor alone is closed below; flipping inside the dataset-level
    pass would change what every layer above it measures. Unlike a random direction, the result lies in
    the span of real differences. It is no clean null: its part along the mean is the mean of the signs,
    magnified by the rescaling, so take several seeds.
    """
    signs = torch.randint(0, 2, (len(anchors), 1, 1), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1
    return _as_long_as(offsets, (signs * torch.from_numpy(np.stack([one.values for one in anchors]))).mean(dim=0))


def _as_long_as(offsets: Offsets, values: torch.Tensor) -> Offsets:
    lengths = torch.from_numpy(offsets.values).norm(dim=-1, keepdim=True)
    return Offsets((normalize(values, dim=-1) * lengths).numpy(), fits=offsets.fits)
