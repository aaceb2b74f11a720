"""What every method is: what the model is shown in place of a record, and what is added to its states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from PIL import Image

from ..records import Record
from ..steering import Steering


class Defence(Protocol):
    """One condition of an evaluation. Subclass it and override what the method changes.

    How much is added and where (alpha, layers, positions, steps) is chosen by the caller, so that
    methods can be held against each other at the same place.
    """

    name: str

    def shown(self, record: Record) -> Record:
        """Return what the model is asked in place of `record`: by default the record itself."""
        return record

    def steering(self, records: Sequence[Record]) -> Steering | None:
        """Return what is added while the model answers what is shown of `records`, None for nothing.

        Where it differs by record it is a `PerRow` of one row a record, in their order. `records` are
        the original ones, at least one.
        """
        return None


@dataclass(frozen=True)
class Undefended(Defence):
    """The model as it is."""

    name: str = "unsteered"


def with_picture(record: Record, picture: Image.Image | None) -> Record:
    """Return the record with another image, or with none."""
    return replace(record, picture=picture)


def with_prompt(record: Record, prompt: str) -> Record:
    """Return the record with another prompt; what counts as a right answer stays."""
    return replace(record, prompt=prompt)
