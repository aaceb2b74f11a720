"""Who says whether an answer refused: judges of one interface, and how far two of them agree."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan
from typing import Protocol

from ..data.records import Record
from .phrases import Verdict, judge_by_phrases


class Judge(Protocol):
    """Gives a verdict on each answer; `name` says in a report whose verdicts they are."""

    @property
    def name(self) -> str:
        """Return what a report calls it."""

    def judge(self, records: Sequence[Record], texts: Sequence[str]) -> list[Verdict]:
        """Judge `texts`, the answers to `records` in the same order."""


@dataclass(frozen=True)
class RuleJudge:
    """Judges by a `rule` for a record and one answer to it."""

    name: str
    rule: Callable[[Record, str], Verdict]

    def judge(self, records: Sequence[Record], texts: Sequence[str]) -> list[Verdict]:
        """Judge `texts`, the answers to `records` in the same order."""
        return [self.rule(record, text) for record, text in zip(records, texts, strict=True)]


PHRASE_JUDGE = RuleJudge("refusal phrases", lambda _, text: judge_by_phrases(text))


@dataclass(frozen=True)
class Agreement:
    """How many of `n` answers two judges say the `same` of, and Cohen's (1960) kappa: how much beyond chance.

    Kappa is nan where chance alone agrees always: both judges gave one and the same verdict throughout, or none.
    Answers of several conditions to one record are not independent, so there is no interval.
    """

    n: int
    same: int
    kappa: float

    @property
    def percent(self) -> float:
        """Return how often they agree; nan without answers."""
        return 100 * self.same / self.n if self.n else nan

    def __str__(self) -> str:
        return f"{self.percent:.1f}% of {self.n:,} answers, kappa {self.kappa:.2f}"


def measure_agreement(first: Sequence[Verdict], second: Sequence[Verdict]) -> Agreement:
    """Compare two judges' verdicts on the same answers.

    Raises:
        ValueError: sequences of different lengths.
    """
    n = len(first)
    same = sum(one == other for one, other in zip(first, second, strict=True))
    ours, theirs = Counter(first), Counter(second)
    chance = sum(ours[kind] * theirs[kind] for kind in ours)  # times n squared, so that all is exact
    kappa = (n * same - chance) / (n**2 - chance) if chance < n**2 else nan
    return Agreement(n, same, kappa)
