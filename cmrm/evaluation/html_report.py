"""The report as one HTML file that needs nothing else: tables, pictures, and examples behind a veil."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from plotly.offline import get_plotlyjs

from ..charts import SCRIPT, STYLE, TAKES, Plot, alpha_curves, pictures
from ..data.records import Record
from ..explaining.explanation import Explanation
from ..explaining.summary import summarize
from ..judging.statistics import Rate
from ..templates import load_template
from .journal import Entry
from .report import PAIRED, UNSTEERED, Report

_EXAMPLES_EACH = 3


def render_report(report: Report, records: Sequence[Record], why: Explanation | None = None) -> str:
    """Return the report's HTML, with the pictures of `why` steering changes one record's answer, if there are any."""
    return load_template(Path(__file__).with_name("report.html")).render(
        report=report,
        curves=list(draw_curves(report)),
        why=pictures(why) if why else [],
        summary=summarize(why) if why else "",
        style=STYLE,
        plotly=get_plotlyjs(),
        script=SCRIPT,
        takes=TAKES,
        examples=list(find_examples(report, records)),
        settings=json.dumps(report.settings, indent=2),
    )


def draw_curves(report: Report) -> Iterator[tuple[str, Plot]]:
    """Yield the rates over alpha of each level that was answered at several, unsteered included."""
    conditions = report.settings["conditions"].values()
    for level in ("dataset-level", "sample-level"):
        rows = {f"{level}, alpha {c['alpha']:g}": c["alpha"] for c in conditions if c["group"] == "alphas"}
        if any(row in report.figures for row in rows):
            yield level, alpha_curves({alpha: _rates(report, row) for row, alpha in {UNSTEERED: 0.0, **rows}.items()})


def _rates(report: Report, row: str) -> list[Rate | None]:
    cells = report.figures.get(row, {})
    return [cells[name].rate if name in cells else None for name in PAIRED]


def find_examples(report: Report, records: Sequence[Record]) -> Iterator[tuple[str, Record, Entry, Entry]]:
    """Yield a few records of each kind of change: the kind, the record, its unsteered and its steered answer."""
    entries = {e.key: e for e in report.entries if not e.error}
    found: Counter[str] = Counter()
    for record in records:
        before, after = entries.get((UNSTEERED, record.id)), entries.get(("dataset-level", record.id))
        kind = before and after and _kind(before, after, report.judge)
        if before and after and kind and found[kind] < _EXAMPLES_EACH:
            found[kind] += 1
            yield kind, record, before, after


def _kind(before: Entry, after: Entry, judge: str) -> str | None:
    was, now = before.verdicts.get(judge), after.verdicts.get(judge)
    if before.label == "harmful" and was == "complied":
        return {"refused": "refusal restored", "complied": "still answered"}.get(str(now))
    if before.label == "harmless" and now == "refused" and was != "refused":
        return "harmless request refused"
    if before.label == "question" and before.right and not after.right:
        return "right answer lost"
    return None
