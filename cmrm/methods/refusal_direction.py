"""The refusal direction (Arditi et al. 2024, arXiv 2406.11717), and its loss beside an image restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from ..data.records import Record
from ..model.vlm import Vlm
from ..steering.anchors import AnchorSet
from ..steering.extraction import last_states
from ..steering.offsets import Offsets
from ..steering.steer import PerRow
from .defence import Defence


def refusal_direction(vlm: Vlm, anchors: AnchorSet) -> Offsets:
    """Return r_l = mean h_t,l(harmful) - mean h_t,l(harmless): text-only states at the last prompt token.

    Added to the states (`DatasetLevel`) it is h_l + alpha r_l. The paper adds r of one layer, at that layer and at
    all positions.

    Raises:
        CmrmError: the anchors have no group "harmful" or no group "harmless".
    """

    def mean(group: str) -> torch.Tensor:
        texts = anchors.only(group).texts
        return last_states(vlm, texts, [None] * len(texts)).mean(dim=0)

    return Offsets(mean("harmful") - mean("harmless"), vlm.identity)


@dataclass(frozen=True)
class Restored(Defence):
    """h_l + alpha (u_l . (h_t,l(p) - h_l)) u_l with u_l = r_l / |r_l|: along r, the state of the prompt p alone.

    The loss is measured on the live state, against one text-only pass of the record's own prompt. So at
    alpha 1 the projection on r is exactly the text-only one at each steered layer, whatever the image
    and however many layers below are steered; a fixed vector, such as the mean loss over anchors, would
    add up over layers and give every prompt the same. Restoring can also lower the projection.
    """

    vlm: Vlm
    direction: Offsets

    def steering(self, records: Sequence[Record]) -> PerRow:
        """Measure each prompt's text-only projection on the direction."""
        units = normalize(self.direction.values, dim=-1)
        texts = last_states(self.vlm, [record.prompt for record in records], [None] * len(records))
        return PerRow([_Levelled(units, level) for level in (texts * units).sum(dim=-1)])


@dataclass(frozen=True)
class _Levelled:
    """Brings the projection on `units` `(layers, hidden)` to `levels` `(layers,)`."""

    units: torch.Tensor
    levels: torch.Tensor

    def delta(self, layer: int, state: torch.Tensor) -> torch.Tensor:
        unit = self.units[layer].to(state.device)
        return (self.levels[layer].to(state.device) - state.float() @ unit)[..., None] * unit
