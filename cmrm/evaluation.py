"""Refusal, over-refusal and answers about images under every method and control, in one table."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from .anchors import load_anchors
from .errors import CmrmError
from .extraction import Progress, extract_offsets, many_prompt_offsets
from .judge import Verdict
from .methods.controls import random_direction
from .offsets import Offsets
from .options import Estimator, Quantization, Split, Steps, check_choice
from .pocket.judge import JUDGE, pocket_verdict
from .pocket.probe import Probe
from .pocket.splits import records
from .records import Record
from .statistics import Rate
from .steering import PerRow, Steering
from .workbench import Workbench

RANDOM_SEEDS = range(5)
UNSTEERED = "unsteered"
TEXT_ONLY = "text only"
RECORDS_AT_ONCE = 400


@dataclass(frozen=True)
class Condition:
    """One row of the table: a steering, or for None sample-level offsets measured per prompt."""

    name: str
    steering: Steering | None
    alpha: float
    layers: tuple[int, ...] | None = None
    steps: Steps = "prompt"


@dataclass(frozen=True)
class Answer:
    """One condition's answer to one record, judged."""

    record: str
    label: str
    condition: str
    text: str
    verdict: Verdict
    right: bool | None


@dataclass(frozen=True)
class Report:
    """All answers of one run and what it takes to make them again."""

    settings: dict
    answers: tuple[Answer, ...]

    def rate(self, condition: str, label: str, counts: Callable[[Answer], bool]) -> Rate:
        """Count the answers of a condition (random directions: all seeds together) to a label."""
        chosen = [a for a in self.answers if a.label == label and a.condition.split(" #")[0] == condition]
        return Rate(sum(map(counts, chosen)), len(chosen))

    def cells(self, condition: str) -> dict[str, Rate]:
        """Return the figures of one row by column."""
        return {
            "harmful refused": self.rate(condition, "harmful", lambda a: a.verdict == "refused"),
            "harmful complied": self.rate(condition, "harmful", lambda a: a.verdict == "complied"),
            "harmful broken": self.rate(condition, "harmful", lambda a: a.verdict == "broken"),
            "harmless refused": self.rate(condition, "harmless", lambda a: a.verdict == "refused"),
            "harmless broken": self.rate(condition, "harmless", lambda a: a.verdict == "broken"),
            "questions right": self.rate(condition, "question", lambda a: bool(a.right)),
        }

    @property
    def conditions(self) -> list[str]:
        """Return the rows in the order they were run."""
        return list(dict.fromkeys(a.condition.split(" #")[0] for a in self.answers))

    def table(self) -> str:
        """Return a Markdown table: percent, with the 95% Wilson interval in brackets."""
        names = list(self.cells(UNSTEERED))
        lines = [f"| condition | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for condition in self.conditions:
            cells = [str(rate) if rate.n else "" for rate in self.cells(condition).values()]
            lines.append(f"| {condition} | {' | '.join(cells)} |")
        counts = ", ".join(f"{self.rate(UNSTEERED, label, bool).n} {label}" for label in ("harmful", "harmless"))
        questions = self.rate(UNSTEERED, "question", bool).n
        note = f"n: {counts}, {questions} questions a row; split: {self.settings['split']}; judge: {JUDGE}."
        return "\n".join([*lines, "", note])

    def write(self, folder: Path) -> None:
        """Write `results.json`, `rows.jsonl` and `table.md`.

        Raises:
            CmrmError: the folder can't be written.
        """
        figures = {
            condition: {
                name: {"percent": round(rate.percent, 2), "interval": rate.interval, "count": rate.count, "n": rate.n}
                for name, rate in self.cells(condition).items()
                if rate.n
            }
            for condition in self.conditions
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "results.json").write_text(json.dumps({**self.settings, "figures": figures}, indent=2))
            (folder / "rows.jsonl").write_text("".join(json.dumps(asdict(a)) + "\n" for a in self.answers))
            (folder / "table.md").write_text(self.table() + "\n")
        except OSError as error:
            raise CmrmError(f"The report could not be written to {str(folder)!r} ({error}); choose another.") from error


def evaluate_pocket(
    model: str = "pocket",
    quantization: Quantization = "auto",
    *,
    split: Split = "test",
    requests: int = 400,
    questions: int = 1000,
    progress: Progress | None = None,
) -> Report:
    """Run every condition on the pocket model's own split; greedy, many records a batch.

    Raises:
        CmrmError: another model (none ships with data), an unknown split, counts below 1.
    """
    check_choice("split", split, Split)
    if min(requests, questions) < 1:
        raise CmrmError("requests and questions must be at least 1; ask for some of each.")
    if model != "pocket":
        raise CmrmError(f"The data that ships is for the pocket model, not for {model!r}; evaluate 'pocket'.")
    bench = Workbench.open(model, quantization)
    rows = _conditions(bench)
    counts = {"harmful": requests, "harmless": requests, "question": questions}
    batches = [
        batch for kind, count in counts.items() for batch in _batched(records(split, kind, count), RECORDS_AT_ONCE)
    ]
    answers: list[Answer] = []
    total = sum(counts.values()) * (1 + len(rows)) + requests
    for batch in batches:
        for given in _batch_answers(bench, batch, rows):
            answers += given
            if progress:
                progress(len(answers), total)
    return Report(_settings(bench, split, rows), tuple(answers))


def _batched(all_records: list[Record], size: int) -> list[list[Record]]:
    return [all_records[start : start + size] for start in range(0, len(all_records), size)]


def _conditions(bench: Workbench) -> list[Condition]:
    """All steered rows: the shipped defaults, then the controls at the same alpha, layers and steps."""
    dataset, sample = bench.recipes["dataset"], bench.recipes["sample"]

    def offsets(groups: str, estimator: Estimator = dataset.estimator) -> Offsets:
        anchors = load_anchors(dataset.anchors.partition(":")[0] + groups)
        return extract_offsets(bench.vlm, anchors.texts, estimator=estimator, corruption=dataset.corruption)

    default = Condition("dataset-level", bench.offsets, dataset.alpha, dataset.layers, dataset.steps)
    return [
        default,
        Condition("sample-level", None, sample.alpha, sample.layers, sample.steps),
        *(
            replace(default, name=f"random direction #{seed}", steering=random_direction(bench.offsets, seed))
            for seed in RANDOM_SEEDS
        ),
        Condition("plain mean, alpha 1, all layers", offsets("", "mean"), 1.0),
        replace(default, name="harmful-only anchors", steering=offsets(":harmful")),
        replace(default, name="harmless-only anchors", steering=offsets(":harmless")),
        replace(default, name="dataset-level, steps = all", steps="all"),
    ]


def _batch_answers(bench: Workbench, batch: list[Record], rows: Sequence[Condition]) -> Iterator[list[Answer]]:
    """Answer records of one kind under every condition, each condition in one batch of all of them."""
    if batch[0].label == "harmful":
        yield _judged(batch, TEXT_ONLY, Probe(bench.vlm, batch, with_image=False).answers())
    probe = Probe(bench.vlm, batch)
    yield _judged(batch, UNSTEERED, probe.answers())
    for row in rows:
        steering = row.steering or _sample_level(bench, batch)
        yield _judged(batch, row.name, probe.answers(steering, row.alpha, row.layers, row.steps))


def _sample_level(bench: Workbench, batch: list[Record]) -> Steering:
    recipe = bench.recipes["sample"]
    prompts = [record.prompt for record in batch]
    return PerRow(many_prompt_offsets(bench.vlm, prompts, estimator=recipe.estimator, corruption=recipe.corruption))


def _judged(batch: list[Record], condition: str, texts: list[str]) -> list[Answer]:
    return [
        Answer(
            record.id,
            record.label,
            condition,
            text,
            pocket_verdict(record, text),
            record.accepts(text) if record.label == "question" else None,
        )
        for record, text in zip(batch, texts, strict=True)
    ]


def _settings(bench: Workbench, split: Split, rows: Sequence[Condition]) -> dict:
    return {
        "command": " ".join(["python -m cmrm", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": asdict(bench.vlm.identity),
        "offsets": asdict(bench.offsets.origin),
        "recipes": {name: asdict(recipe) for name, recipe in bench.recipes.items()},
        "conditions": {row.name: {"alpha": row.alpha, "layers": row.layers, "steps": row.steps} for row in rows},
        "judge": JUDGE,
        "split": split,
    }
