"""CMRM (Liu et al., arXiv 2410.09047): h_l + alpha (h_t,l - h_c,l), of anchors or of each prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..data.records import Record
from ..engines.base import Engine
from ..settings import Corruption, Estimator
from ..steering.extraction import extract_each
from ..steering.offsets import Offsets
from ..steering.vectors import Vectors
from .defence import Defence


@dataclass(frozen=True)
class DatasetLevel(Defence):
    """The same vectors for every record, such as the offsets that `extract_offsets` measured on anchors."""

    vectors: Vectors

    def steering(self, records: Sequence[Record]) -> Vectors:
        """Return the same vectors, whatever the records."""
        return self.vectors


@dataclass(frozen=True)
class SampleLevel(Defence):
    """The offsets of each record's own prompt, beside a corrupted image in place of the record's."""

    engine: Engine
    estimator: Estimator = "sequential"
    corruption: Corruption = "white"

    def steering(self, records: Sequence[Record]) -> list[Offsets]:
        """Measure all prompts in shared batches."""
        prompts = [record.prompt for record in records]
        return extract_each(self.engine, prompts, estimator=self.estimator, corruption=self.corruption)
