"""One evaluation from beginning to end: model, records, conditions, answers, verdicts, report."""

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from accelerate.utils.memory import clear_device_cache

from ..data import load_records
from ..data.records import LABELS, Record, assign_split
from ..engines.opening import open_engine
from ..errors import CmrmError
from ..explaining.explanation import Explanation
from ..files import source_of
from ..judging.guard import GuardJudge
from ..judging.judges import PHRASE_JUDGE, Judge
from ..model.processes import Processes, peak_gpu_memory
from ..model.unusable import check_files
from ..pocket.judge import POCKET_JUDGE
from ..pocket.records import records as pocket_records
from ..progress import Progress, finish
from ..settings import Layout, ModelChoice, Settings, Split, check_choice
from ..steering.offsets import Offsets
from ..terminal import mask_keys
from ..versions import versions
from ..workbench import Workbench
from .conditions import GROUPS, make_conditions
from .html_report import render_report
from .journal import Journal, dump, parse, write
from .paper import paper_table
from .report import Report
from .study import Condition, Study, judge_entries

POCKET = "pocket"
PAPER = "paper"


@dataclass(frozen=True)
class Plan:
    """What to evaluate; the names are those of the command's options.

    `requests` and `questions` are how many records of each label are taken (None: all there are), 0 for none.
    `settings` are those of all rows, but for what a row's method and group choose; answers are greedy.
    """

    out: Path
    chosen: ModelChoice = field(default_factory=ModelChoice)
    offsets: str | None = None
    data: tuple[str, ...] = (POCKET,)
    layout: Layout = "auto"
    images: Path | None = None
    skip_bad: bool = False
    split: Split = "test"
    requests: int | None = None
    questions: int | None = None
    groups: tuple[str, ...] = tuple(group for group in GROUPS if group != PAPER)
    alphas: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    judge: str = ""
    batch: int = 16
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        check_choice("split", self.split, Split)
        if self.batch < 1 or min(self.requests or 0, self.questions or 0) < 0:
            raise CmrmError(
                "batch must be at least 1, and requests and questions not be negative; give larger numbers."
            )
        if unknown := sorted(set(self.groups) - set(GROUPS)):
            raise CmrmError(f"rows names {', '.join(map(repr, unknown))}, but must be some of {', '.join(GROUPS)}.")
        if PAPER in self.groups and len(self.groups) > 1:
            raise CmrmError(
                "The group paper names its rows as other groups do but has the paper's settings; run it by itself, in "
                "another --out."
            )
        if self.judge:
            check_files(source_of(self.judge.removeprefix("hf:")))
        if self.offsets is not None:
            Offsets.load(self.offsets)
        if self.chosen.engine == "local":
            check_files(source_of(self.chosen.model))
            self.check_model(self.chosen.model)
        if POCKET in self.data and len(self.data) > 1:
            raise CmrmError("The pocket model's records can't be mixed with others; give either.")
        if POCKET in self.data and self.split == "all":
            raise CmrmError("The pocket model's records have a dev and a test split; choose one of them.")

    def check_model(self, name: str) -> None:
        """Raise `CmrmError` for another model than the pocket model without data."""
        if POCKET in self.data and name != POCKET:
            raise CmrmError(
                f"No data ships for {name!r}; give --data FILE or a hub data set (docs/data.md says which)."
            )


def run(
    plan: Plan, progress: Callable[[Progress], None] | None = None, say: Callable[[str], None] = print
) -> str | None:
    """Answer, judge and report; return the tables, or None in all but the first of several processes.

    Raises:
        CmrmError: a plan, a model, data or an output folder that can't be used, with the reason.
    """
    processes, started = Processes.current(), time.monotonic()
    if not processes.main:
        progress, say = None, lambda _: None
    records = _load_records(plan, say)
    if not records:
        raise CmrmError(
            f"The data has no records in the {plan.split} split; choose another --split, or take more data."
        )
    engine = open_engine(replace(plan.chosen, device_map=processes.device or plan.chosen.device_map))
    plan.check_model(engine.identity.model)
    bench = Workbench.over(engine, plan.offsets)
    for note in bench.notes:
        say(note)
    rows = make_conditions(bench, plan.settings, records, plan.groups, plan.alphas)
    judges: list[Judge] = [POCKET_JUDGE, PHRASE_JUDGE] if POCKET in plan.data else [PHRASE_JUDGE]
    study = Study(bench.engine, records, rows, judges, plan.batch, not plan.skip_bad)
    settings = _settings(plan, bench, records, rows)
    journal = Journal(plan.out, settings, processes.index)
    processes.wait()  # every process has read what there was, before any of them adds to it
    try:
        before, began = len(journal.entries), time.monotonic()
        study.run(journal, processes, progress)
        seconds = time.monotonic() - began
        gathered = processes.gather(dump(journal.entries.values()))
        processes.leave()
        if not processes.main:
            return None
        journal.entries.update((entry.key, entry) for blob in gathered[1:] for entry in parse(blob))
        if new := len(journal.entries) - before:
            say(f"{new:,} answers in {seconds:.0f} s, {new / seconds:.1f} a second")
        judge, keys, why = judges[0].name, study.keys, _explain(bench, records, say)
        if plan.judge:
            # The guard may need the memory that the model has.
            del engine, bench, study, rows
            clear_device_cache(garbage_collection=True)
            judge = _judge_by_guard(plan.judge, journal, records, say)
    finally:
        if processes.main:
            cost = journal.spend((time.monotonic() - started) / 3600, peak_gpu_memory())
    whole = {**settings, **_circumstances(), "cost": {**cost, "processes": processes.count}}
    return _write(plan, Report(whole, journal.finish(keys), judge), records, why)


def _load_records(plan: Plan, say: Callable[[str], None]) -> list[Record]:
    """The records of the split, at most so many of each label, in the data's order."""
    wanted = {"harmful": plan.requests, "harmless": plan.requests, "question": plan.questions}
    if POCKET in plan.data:
        defaults = {"harmful": 400, "harmless": 400, "question": 1000}
        counts = {label: defaults[label] if count is None else count for label, count in wanted.items()}
        return [record for label in LABELS for record in pocket_records(plan.split, label, counts[label])]
    skip = say if plan.skip_bad else None
    found: dict[str, Record] = {}
    for number, source in enumerate(plan.data):
        for record in load_records(source, layout=plan.layout, images=plan.images, skip=skip):
            own = record.id if record.id not in found else f"{number}:{record.id}"
            found[own] = replace(record, id=own)
    chosen = [record for record in found.values() if plan.split in ("all", assign_split(record))]
    by_label = [[record for record in chosen if record.label == label][: wanted[label]] for label in LABELS]
    return [record for group in by_label for record in group]


def _judge_by_guard(name: str, journal: Journal, records: Sequence[Record], say: Callable[[str], None]) -> str:
    judge = GuardJudge.load(name.removeprefix("hf:"))
    say(f"judging by {judge.name}")
    for judged in judge_entries(judge, list(journal.entries.values()), records):
        journal.add(judged)
    return judge.name


def _settings(plan: Plan, bench: Workbench, records: Sequence[Record], rows: Sequence[Condition]) -> dict[str, object]:
    """What an answer depends on: a run goes on only where all of it is the same."""
    origin = {
        name: value for name, value in asdict(bench.offsets.origin).items() if name not in ("created", "versions")
    }
    digest = hashlib.sha256("".join(f"{(r.id, r.answers, r.digest())}\n" for r in records).encode()).hexdigest()
    return {
        "model": asdict(bench.engine.identity),
        # The shipped recipes, rivals included, were chosen on the pocket model's dev split.
        "tuned": "dev" if bench.engine.identity.model == POCKET else None,
        "data": ", ".join(plan.data),
        "records": digest,
        "split": plan.split,
        "offsets": {**origin, "anchor set": bench.anchors, "sha256": bench.offsets.digest() if plan.offsets else None},
        "recipes": {name: asdict(recipe) for name, recipe in bench.recipes.items()},
        "conditions": {row.name: row.json() for row in rows},
        "batch": plan.batch,
        "max_new_tokens": plan.settings.max_new_tokens,
    }


def _circumstances() -> dict[str, object]:
    return {
        "command": shlex.join(["python", "-m", "cmrm", *mask_keys(sys.argv[1:])]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions("accelerate"),
    }


def _explain(bench: Workbench, records: Sequence[Record], say: Callable[[str], None]) -> Explanation | None:
    """What steering does to the states of the first harmful request, if it can be read."""
    requests = [record for record in records if record.label == "harmful"]
    if not requests:
        return None
    try:
        return finish(bench.explain(requests[0].image, requests[0].prompt, answers=((), ())))
    except CmrmError as error:
        say(f"The report has no pictures of the states: {error}")
        return None


def _write(plan: Plan, report: Report, records: Sequence[Record], why: Explanation | None) -> str:
    tables = [report.table(), report.paired_table()]
    if PAPER in plan.groups:
        tables.insert(0, paper_table(report))
    whole = "\n\n".join(tables)
    write(plan.out / "table.md", f"{whole}\n")
    write(plan.out / "results.json", json.dumps(report.json(), indent=2))
    write(plan.out / "report.html", render_report(report, records, why))
    return whole
