"""Rates with their uncertainty."""

from dataclasses import dataclass
from math import sqrt

_Z95 = 1.959964


@dataclass(frozen=True)
class Rate:
    """`count` of `n`, with the 95% Wilson score interval."""

    count: int
    n: int

    @property
    def percent(self) -> float:
        """Return the rate in percent."""
        return 100 * self.count / self.n if self.n else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95% Wilson interval in percent."""
        if not self.n:
            return (float("nan"), float("nan"))
        share, z2 = self.count / self.n, _Z95**2
        centre = (share + z2 / (2 * self.n)) / (1 + z2 / self.n)
        half = _Z95 * sqrt(share * (1 - share) / self.n + z2 / (4 * self.n**2)) / (1 + z2 / self.n)
        return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.percent:.1f}% ({low:.1f} to {high:.1f})"
