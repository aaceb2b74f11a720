"""A row of the table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """One row of the table: a ratio, its bound, and what it is a ratio of."""

    name: str
    ratio: float
    must: float | None
    of: str

    def __str__(self) -> str:
        bound = "" if self.must is None else f"<= {self.must:.2f}"
        return f"| {self.name} | {self.ratio:.2f} | {bound} | {self.of} |"
