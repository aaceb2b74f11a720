"""Steerings that a claim about CMRM has to stand beside: as long as its offsets, or measured as they are."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn.functional import normalize

from ..data.records import Record
from ..errors import CmrmError
from ..steering.offsets import Offsets
from .cmrm import SampleLevel
from .defence import Defence


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


@dataclass(frozen=True)
class OtherPrompt(Defence):
    """Sample-level offsets of another prompt: what is left of them when they don't fit.

    The other prompt is drawn from `prompts` by `seed` and the record's own prompt, so it does not depend on
    the batch.
    """

    sample: SampleLevel
    prompts: tuple[str, ...]
    seed: int = 0

    def steering(self, records: Sequence[Record]) -> list[Offsets]:
        """Measure each record's other prompt.

        Raises:
            CmrmError: `prompts` holds none but the record's own.
        """
        return self.sample.steering([replace(record, prompt=self.draw_other(record.prompt)) for record in records])

    def draw_other(self, prompt: str) -> str:
        """Return the prompt that stands in for `prompt`."""
        others = [one for one in self.prompts if one != prompt]
        if not others:
            raise CmrmError("There is no other prompt to measure offsets on; give at least two different prompts.")
        return random.Random(f"{self.seed} {prompt}").choice(others)
