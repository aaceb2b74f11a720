"""What CMRM stands beside: the refusal direction, ShiftDC, and a defence prompt."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..data.records import Record
from ..engines.base import Engine
from ..steering.anchors import AnchorSet
from ..steering.extraction import read_states
from ..steering.vectors import Prompt, Reader, Vectors
from .ceilings import Captioned
from .defence import Defence


def refusal_direction(reader: Reader, anchors: AnchorSet) -> Vectors:
    """Return r_l = mean h_t,l(harmful) - mean h_t,l(harmless): text-only states at the last prompt token.

    Added to the states (`DatasetLevel`) it is h_l + alpha r_l. The paper (Arditi et al. 2024, arXiv 2406.11717) adds r
    of one layer, at that layer and at all positions.

    Raises:
        CmrmError: the anchors have no group "harmful" or no group "harmless".
    """
    texts = [anchors.only(group).texts for group in ("harmful", "harmless")]
    harmful, harmless = (read_states(reader, list(map(Prompt, group))).mean(axis=0) for group in texts)
    return Vectors(harmful - harmless)


def unit_vectors(direction: Vectors) -> np.ndarray:
    """Return u_l = r_l / |r_l|, `(layers, hidden)`."""
    norms = np.linalg.norm(direction.values, axis=-1, keepdims=True)
    units: np.ndarray = direction.values / np.maximum(norms, 1e-12)
    return units


@dataclass(frozen=True)
class Restored(Defence):
    """h_l + alpha (u_l . (h_t,l(p) - h_l)) u_l with u_l = r_l / |r_l|: along r, the state of the prompt p alone.

    The loss is measured on the live state, against one text-only pass of the record's own prompt. So at
    alpha 1 the projection on r is exactly the text-only one at each steered layer, whatever the image
    and however many layers below are steered; a fixed vector, such as the mean loss over anchors, would
    add up over layers and give every prompt the same. Restoring can also lower the projection.
    """

    engine: Engine
    direction: Vectors

    def steering(self, records: Sequence[Record]) -> list[Vectors]:
        """Measure each prompt's text-only projection on the direction."""
        units = unit_vectors(self.direction)
        texts = read_states(self.engine, [Prompt(record.prompt) for record in records])
        return [Vectors(units, "project", levels) for levels in (texts * units).sum(axis=-1)]


@dataclass(frozen=True)
class ShiftDC(Defence):
    """h_l - alpha proj_s(m_l), with m_l = h_l(image, p) - h_l(caption, p), both unsteered at the last prompt token.

    What the image adds along "safe" is taken out (Zou et al., NeurIPS 2025, arXiv 2502.13095).
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
            for asked in (records, self.captioned.shown(records))
        )
        units = unit_vectors(self.direction)
        along = ((beside - alone) * units).sum(axis=-1, keepdims=True) * units
        return [Vectors(-shift) for shift in along]


def paper_layers(count: int) -> tuple[int, ...]:
    """Return the layers that ShiftDC steers: 10 to 31 of 32, or the same part of `count` layers."""
    return tuple(range(round(count * 10 / 32), count))


# Our own wording of the paper's four points: look at the image, at its text too, judge both together, refuse or help.
TEMPLATE = (
    "Look closely at the image first, at any writing in it too. Then think about what the image and the request below "
    "ask for together. If that could hurt someone or break the law, only say that you are sorry and can't help. If it "
    "is harmless, answer it in full.\n\nRequest: {prompt}"
)


@dataclass(frozen=True)
class DefencePrompt(Defence):
    """Shows the prompt inside `template`, at its "{prompt}"; nothing is added to any state.

    It is a fixed defence prompt, after the idea of AdaShield-S (Wang et al., arXiv 2403.09513).
    """

    template: str = TEMPLATE

    def shown(self, records: Sequence[Record]) -> list[Record]:
        """Return the records with their prompts inside the template."""
        return [replace(record, prompt=self.template.replace("{prompt}", record.prompt)) for record in records]
