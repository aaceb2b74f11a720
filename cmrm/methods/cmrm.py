"""CMRM (Liu et al., arXiv 2410.09047): h_l + alpha (h_t,l - h_c,l), of anchors or of each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..data.records import Record
from ..model.vlm import Vlm
from ..settings import Corruption, Estimator
from ..steering.extraction import many_prompt_offsets
from ..steering.steer import PerRow, Steering
from .defence import Defence


@dataclass(frozen=True)
class DatasetLevel(Defence):
    """The same steering for every record, such as the offsets that `extract_offsets` measured on anchors."""

    offsets: Steering

    def steering(self, records: Sequence[Record]) -> Steering:
        """Return the one steering, whatever the records."""
        return self.offsets


@dataclass(frozen=True)
class SampleLevel(Defence):
    """The offsets of each record's own prompt, beside a corrupted image in place of the record's."""

    vlm: Vlm
    estimator: Estimator = "sequential"
    corruption: Corruption = "white"

    def steering(self, records: Sequence[Record]) -> PerRow:
        """Measure all prompts in shared batches."""
        prompts = [record.prompt for record in records]
        return PerRow(many_prompt_offsets(self.vlm, prompts, estimator=self.estimator, corruption=self.corruption))
