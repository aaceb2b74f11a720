"""What every method is: what the model is shown in place of records, and what is added to its states."""

from collections.abc import Sequence

from ..data.records import Record
from ..steering.vectors import Vectors

Added = Vectors | Sequence[Vectors] | None
"""What a method adds: the same to all rows, one a row, or nothing."""


class Defence:
    """One condition of an evaluation: by itself, the model as it is. Subclass it and override what the method changes.

    How much is added and where (alpha, layers, positions, steps) is chosen by the caller, so that
    methods can be held against each other at the same place.
    """

    def show(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return what the model is asked in place of each record: by default the record itself."""
        return records

    def steering(self, records: Sequence[Record]) -> Added:
        """Return what is added while the model answers what is shown of `records`, in their order.

        `records` are the original ones, at least one.
        """
        return None
