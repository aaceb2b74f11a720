"""The refusal direction (Arditi et al. 2024, arXiv 2406.11717), and its loss beside an image restored."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.records import Record
from ..engines.base import Engine
from ..steering.anchors import AnchorSet
from ..steering.extraction import read_states
from ..steering.vectors import Prompt, Reader, Vectors
from .defence import Defence


def refusal_direction(reader: Reader, anchors: AnchorSet) -> Vectors:
    """Return r_l = mean h_t,l(harmful) - mean h_t,l(harmless): text-only states at the last prompt token.

    Added to the states (`DatasetLevel`) it is h_l + alpha r_l. The paper adds r of one layer, at that layer and at
    all positions.

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
