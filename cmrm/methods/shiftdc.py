"""ShiftDC (Zou et al., NeurIPS 2025, arXiv 2502.13095): what the image adds along "safe", taken out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.nn.functional import normalize

from ..data.records import Record
from ..steering.extraction import last_states
from ..steering.offsets import Offsets
from ..steering.steer import PerRow
from .captions import Captioned
from .defence import Defence


@dataclass(frozen=True)
class ShiftDC(Defence):
    """h_l - alpha proj_s(m_l), with m_l = h_l(image, p) - h_l(caption, p), both unsteered at the last prompt token.

    s_l = mean of safe texts - mean of unsafe texts is the refusal direction with the other sign, which a
    projection does not see: `direction` is that of `refusal_direction`. The paper steers the last
    prompt token in `paper_layers`. A record without an image has no shift.
    """

    captioned: Captioned
    direction: Offsets

    def steering(self, records: Sequence[Record]) -> PerRow:
        """Caption each record's image and measure its shift from the caption, by two passes."""
        vlm, captioned = self.captioned.vlm, self.captioned.shown(records)
        beside, alone = (
            last_states(vlm, [one.prompt for one in asked], [one.image for one in asked])
            for asked in (records, captioned)
        )
        units = normalize(self.direction.values, dim=-1)
        along = ((beside - alone) * units).sum(dim=-1, keepdim=True) * units
        return PerRow([Offsets(-shift, vlm.identity) for shift in along])


def paper_layers(count: int) -> tuple[int, ...]:
    """Return the layers that ShiftDC steers: 10 to 31 of 32, or the same part of `count` layers."""
    return tuple(range(round(count * 10 / 32), count))
