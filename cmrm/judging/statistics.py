"""Rates and paired differences with their uncertainty."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, nan, sqrt

import numpy as np

_Z95 = 1.959964


@dataclass(frozen=True)
class Rate:
    """`count` of `n`, with the 95% Wilson score interval."""

    count: int
    n: int

    @property
    def percent(self) -> float:
        """Return the rate in percent."""
        return 100 * self.count / self.n if self.n else nan

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95% Wilson interval in percent."""
        if not self.n:
            return (nan, nan)
        share, z2 = self.count / self.n, _Z95**2
        centre = (share + z2 / (2 * self.n)) / (1 + z2 / self.n)
        half = _Z95 * sqrt(share * (1 - share) / self.n + z2 / (4 * self.n**2)) / (1 + z2 / self.n)
        return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.percent:.1f}% ({low:.1f} to {high:.1f})"


@dataclass(frozen=True)
class Paired:
    """What two conditions did with the same `n` records, as counts of the pairs in which they differ.

    `b` counts the pairs of which only the first is true, `c` those of which only the second is. `difference` is the
    second rate minus the first, in points, with its 95% `interval`; both are nan without pairs.
    """

    n: int
    b: int
    c: int
    interval: tuple[float, float] = (nan, nan)

    @classmethod
    def of(cls, first: Sequence[bool], second: Sequence[bool], seed: int = 0, draws: int = 2000) -> "Paired":
        """Compare two conditions record by record; the interval is the percentile bootstrap over pairs.

        Where no pair differs, resampling them shows nothing: the interval is then what 97.5% of samples of `n` would
        have shown a difference beyond, either way (Clopper and Pearson, 1934).

        Raises:
            ValueError: sequences of different lengths.
        """
        pairs = list(zip(map(bool, first), map(bool, second), strict=True))
        n, b, c = len(pairs), pairs.count((True, False)), pairs.count((False, True))
        if not n:
            return cls(n, b, c)
        if not b + c:
            bound = 100 * (1 - 0.025 ** (1 / n))
            return cls(n, b, c, (-bound, bound))
        # Pairs drawn with replacement are counts of a multinomial: only how many of each kind matters.
        drawn = np.random.default_rng(seed).multinomial(n, [b / n, c / n, (n - b - c) / n], size=draws)
        low, high = np.percentile(100 * (drawn[:, 1] - drawn[:, 0]) / n, (2.5, 97.5))
        return cls(n, b, c, (float(low), float(high)))

    @property
    def difference(self) -> float:
        """Return the second rate minus the first, in points of percent."""
        return 100 * (self.c - self.b) / self.n if self.n else nan

    @property
    def p(self) -> float:
        """Return the two-sided p of McNemar's exact test: of b and c in fair coin tosses; 1 without any."""
        coins = self.b + self.c
        return min(1.0, 2 * sum(comb(coins, k) for k in range(min(self.b, self.c) + 1)) / 2**coins)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.difference:+.1f} ({low:+.1f} to {high:+.1f}), p = {self.p:.2g}"
