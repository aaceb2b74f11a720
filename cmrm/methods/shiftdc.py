"""ShiftDC (Zou et al., NeurIPS 2025, arXiv 2502.13095): what the image adds along "safe", taken out."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..data.records import Record
from ..steering.extraction import read_states
from ..steering.vectors import Prompt, Vectors
from .captions import Captioned
from .defence import Defence
from .refusal_direction import unit_vectors


@dataclass(frozen=True)
class ShiftDC(Defence):
    """h_l - alpha proj_s(m_l), with m_l = h_l(image, p) - h_l(caption, p), both unsteered at the last prompt token.

    s_l = mean of safe texts - mean of unsafe texts is the refusal direction with the other sign, which a
    projection does not see: `direction` is that of `refusal_direction`. The paper steers the last
    prompt token in `paper_layers`. A record without an image has no shift.
    """

    captioned: Captioned
    direction: Vectors

    def steering(self, records: Sequence[Record]) -> list[Vectors]:
        """Caption each record's image and measure its shift from the caption, by two passes."""
        beside, alone = (
            read_states(self.captioned.engine, [Prompt(record.prompt, record.image) for record in asked])
            for asked in (records, self.captioned.show(records))
        )
        units = unit_vectors(self.direction)
        along = ((beside - alone) * units).sum(axis=-1, keepdims=True) * units
        return [Vectors(-shift) for shift in along]


def paper_layers(count: int) -> tuple[int, ...]:
    """Return the layers that ShiftDC steers: 10 to 31 of 32, or the same part of `count` layers."""
    return tuple(range(round(count * 10 / 32), count))
