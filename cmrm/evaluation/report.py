"""Figures from answers: rates with intervals, paired with the unsteered row, by label; as JSON and as Markdown."""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import isnan
from statistics import fmean
from typing import Any

from ..data.records import LABELS
from ..judging.judges import Agreement, measure_agreement
from ..judging.statistics import Paired, Rate
from .journal import Entry

UNSTEERED = "unsteered"

# Each figure's label, and what is counted: a verdict, or right answers.
MEASURES = {
    "harmful refused": ("harmful", "refused"),
    "harmful complied": ("harmful", "complied"),
    "harmful broken": ("harmful", "broken"),
    "harmless refused": ("harmless", "refused"),
    "harmless broken": ("harmless", "broken"),
    "questions right": ("question", "right"),
}
MEANS = ("harmful opening", "harmless opening", "log-probability", "time")
PAIRED = ("harmful refused", "harmless refused", "questions right")


@dataclass(frozen=True)
class Cell:
    """One figure of a row: its rate, the percent of each of its seeds, and the pairs with the unsteered row.

    Several seeds answer the same records, so their spread stands in place of an interval and of pairs.
    """

    rate: Rate
    seeds: tuple[float, ...]
    paired: Paired | None

    def __str__(self) -> str:
        if len(self.seeds) < 2:
            return str(self.rate)
        return f"{self.rate.percent:.1f}% (seeds {min(self.seeds):.1f} to {max(self.seeds):.1f})"


@dataclass(frozen=True)
class Report:
    """All answers of one run by its main judge, and what it takes to make them again."""

    settings: Mapping[str, Any]
    entries: Sequence[Entry]
    judge: str

    @cached_property
    def _by_row(self) -> dict[str, list[Entry]]:
        rows: dict[str, list[Entry]] = {}
        for entry in self.entries:
            row = entry.condition.split(" #")[0]  # seeds "... #1", "... #2" are one row
            rows.setdefault(row, []).append(entry)
        return rows

    @property
    def rows(self) -> list[str]:
        """The names of the table's rows, in the order in which they were run."""
        return list(self._by_row)

    @cached_property
    def figures(self) -> dict[str, dict[str, Cell]]:
        """Every row's cells by measure, without those that nothing was asked for."""
        return {row: dict(self._cells(row)) for row in self.rows}

    def _cells(self, row: str) -> Iterator[tuple[str, Cell]]:
        for name, (label, what) in MEASURES.items():
            hits = {e.key: self._counts(e, what) for e in self._by_row[row] if e.label == label and not e.error}
            if not hits:
                continue
            seeds: dict[str, list[bool]] = {}
            for (condition, _), hit in hits.items():
                seeds.setdefault(condition, []).append(hit)
            rates = tuple(100 * fmean(seed) for seed in seeds.values())
            one = name in PAIRED and row != UNSTEERED and len(rates) == 1
            yield name, Cell(Rate(sum(hits.values()), len(hits)), rates, self._paired(hits, what) if one else None)

    def _counts(self, entry: Entry, what: str) -> bool:
        return bool(entry.right) if what == "right" else entry.verdicts.get(self.judge) == what

    def _paired(self, hits: Mapping[tuple[str, str], bool], what: str) -> Paired | None:
        before = {e.record: self._counts(e, what) for e in self._unsteered if not e.error}
        pairs = [(before[record], hit) for (_, record), hit in hits.items() if record in before]
        return Paired.of([b for b, _ in pairs], [a for _, a in pairs]) if pairs else None

    @property
    def _unsteered(self) -> list[Entry]:
        return self._by_row.get(UNSTEERED, [])

    def mean(self, row: str, value: str, labels: Container[str] = LABELS) -> float | None:
        """Return the mean of an entry's `value` ("fluency", "opening") over a row's entries of some labels."""
        found = [getattr(e, value) for e in self._by_row[row] if e.label in labels]
        known = [number for number in found if number is not None]
        return fmean(known) if known else None

    @cached_property
    def means(self) -> dict[str, dict[str, float]]:
        """Every row's means by name: of a refusal's first token by label, and what words and time cost."""
        found = {
            row: {
                "harmful opening": self.mean(row, "opening", ["harmful"]),
                "harmless opening": self.mean(row, "opening", ["harmless"]),
                "log-probability": self.mean(row, "fluency", self._shared_labels),
                "time": self.time_ratio(row),
            }
            for row in self.rows
        }
        return {row: {name: mean for name, mean in means.items() if mean is not None} for row, means in found.items()}

    @cached_property
    def _shared_labels(self) -> set[str]:
        """The kinds of record that all rows answered: text alone has no questions."""
        return set.intersection(*({e.label for e in entries} for entries in self._by_row.values()))

    @property
    def measure_names(self) -> list[str]:
        """The rates that at least one row has."""
        return [name for name in MEASURES if any(name in cells for cells in self.figures.values())]

    @property
    def paired_names(self) -> list[str]:
        """Those that are held against the unsteered row's."""
        return [name for name in self.measure_names if name in PAIRED]

    @property
    def mean_names(self) -> list[str]:
        """The means that at least one row has."""
        return [name for name in MEANS if any(name in means for means in self.means.values())]

    def time_ratio(self, row: str) -> float | None:
        """Return a row's time an answer over the unsteered one's, on the records that both answered."""
        before = {entry.record: entry.seconds for entry in self._unsteered if not entry.error}
        pairs = [(e.seconds, before[e.record]) for e in self._by_row[row] if e.record in before and not e.error]
        below = sum(b for _, b in pairs)
        return sum(a for a, _ in pairs) / below if below else None

    @property
    def agreements(self) -> dict[str, Agreement]:
        """How far each other judge agrees with the main one, over all harmful requests that both judged.

        Of harmless ones a guard's verdicts are those of the phrases, which would count as agreement.
        """
        others = dict.fromkeys(name for e in self.entries for name in e.verdicts if name != self.judge)
        found = {}
        for name in others:
            both = [e for e in self.entries if {name, self.judge} <= e.verdicts.keys() and e.label == "harmful"]
            if both:
                found[name] = measure_agreement(
                    [e.verdicts[self.judge] for e in both], [e.verdicts[name] for e in both]
                )
        return found

    @property
    def failed(self) -> list[Entry]:
        """The records that could not be answered, with the reasons."""
        return [entry for entry in self.entries if entry.error]

    def table(self) -> str:
        """Return the Markdown table: percent with the 95% Wilson interval; means of openings, log-probability, time."""
        names, means = self.measure_names, self.mean_names
        lines = [_line("condition", *names, *means), "|---" * (1 + len(names) + len(means)) + "|"]
        for row, cells in self.figures.items():
            shown = [str(cells[name]) if name in cells else "" for name in names]
            beside = self.means[row]
            lines.append(_line(row, *shown, *(f"{beside[name]:.2f}" if name in beside else "" for name in means)))
        agreed = [f"Agreement of {self.judge} with {k} on harmful requests: {v}." for k, v in self.agreements.items()]
        return "\n".join([*lines, "", self.note(), "", *agreed])

    def paired_table(self) -> str:
        """Return the Markdown table of differences to the unsteered row: points, 95% bootstrap, McNemar's p."""
        names = self.paired_names
        lines = [_line("condition", *(f"{name}, points" for name in names)), "|---" * (len(names) + 1) + "|"]
        for row, cells in self.figures.items():
            pairs = [cells[name].paired if name in cells else None for name in names]
            if any(pairs):
                lines.append(_line(row, *(str(pair) if pair else "" for pair in pairs)))
        return "\n".join(lines)

    def note(self) -> str:
        """Return what the figures are of: counts, split, judge."""
        cells = self.figures.get(UNSTEERED) or next(iter(self.figures.values()), {})
        counts = {MEASURES[name][0]: cell.rate.n for name, cell in cells.items()}
        sizes = ", ".join(f"{n:,} {label}" for label, n in counts.items())
        tuned = self.settings.get("tuned")
        split = f"{self.settings['split']}, settings {f'tuned on {tuned}' if tuned else 'not tuned for this model'}"
        failed = f"; {len(self.failed)} answers are missing (rows.jsonl says why)" if self.failed else ""
        return (
            f"n: {sizes} a row and seed; split: {split}; judge: {self.judge}{failed}. Percent (95% "
            "Wilson interval, or the spread over seeds); opening: mean probability of a refusal's first token; "
            "log-probability a token by the unsteered text-only model, on the kinds of record that all rows answered; "
            "time an answer, unsteered 1."
        )

    def json(self) -> dict[str, object]:
        """Return everything but the answers, for `results.json`."""
        rows = {
            row: {"figures": {name: _cell(cell) for name, cell in cells.items()}, "means": self.means[row]}
            for row, cells in self.figures.items()
        }
        # JSON has no nan.
        agreements = {
            name: {**asdict(found), "percent": found.percent, "kappa": None if isnan(found.kappa) else found.kappa}
            for name, found in self.agreements.items()
        }
        return {**self.settings, "judge": self.judge, "agreement": agreements, "rows": rows}


def _cell(cell: Cell) -> dict[str, object]:
    rate, pair = cell.rate, cell.paired
    whole: dict[str, object] = {"percent": rate.percent, "count": rate.count, "n": rate.n}
    spread = {"interval": rate.interval} if len(cell.seeds) == 1 else {"seeds": cell.seeds}
    paired = {"paired": {**asdict(pair), "difference": pair.difference, "p": pair.p}} if pair else {}
    return whole | spread | paired


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
