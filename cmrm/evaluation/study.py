"""Every condition's answer to every record, in batches, journalled: what was answered is never answered again."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from ..answering.batches import Answered, alike, answer_batch
from ..data.records import Record
from ..errors import CmrmError
from ..judging.fluency import pair_log_probabilities
from ..judging.judges import Judge
from ..judging.openings import refusal_openings
from ..methods.ceilings import Beside
from ..methods.defence import Defence
from ..model.processes import Processes
from ..model.vlm import Inputs, Vlm, out_of_memory
from ..settings import Positions, Steps
from ..steering.steer import steer
from .journal import Entry, Journal

Progress = Callable[[int, int], None]
LABELS = ("harmful", "harmless", "question")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Condition:
    """One row of the table: what the model is asked and what is added, how much and where.

    Conditions named "... #1", "... #2" are seeds of one row. `labels` are the kinds of record that it answers.
    """

    name: str
    group: str
    defence: Defence
    alpha: float = 1.0
    layers: tuple[int, ...] | None = None
    positions: Positions = "last"
    steps: Steps = "prompt"
    labels: tuple[str, ...] = LABELS

    def settings(self) -> dict[str, object]:
        """Return what the condition is, as JSON."""
        layers = None if self.layers is None else list(self.layers)
        where = {"layers": layers, "positions": self.positions, "steps": self.steps}
        return {"group": self.group, "alpha": self.alpha, **where}


@dataclass(frozen=True)
class Study:
    """Records and conditions, answered `batch` records at a time.

    What shares a batch is settled by the records alone, so neither an interruption nor the number of processes
    changes an answer. With `strict` the first record that can't be answered ends the run.
    """

    vlm: Vlm
    records: Sequence[Record]
    conditions: Sequence[Condition]
    judges: Sequence[Judge]
    batch: int = 16
    max_new_tokens: int = 128
    strict: bool = False

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Return every condition and record to be answered, in the order of the report."""
        return [(c.name, r.id) for c in self.conditions for r in self.records if r.label in c.labels]

    def run(self, journal: Journal, processes: Processes, progress: Progress | None = None) -> None:
        """Answer what the journal lacks, sharing the batches among processes.

        Raises:
            CmrmError: memory for not even one row, or with `strict` a record that can't be answered.
        """
        mine = self._batches()[processes.index :: processes.count]
        total = sum(record.label in c.labels for batch in mine for record in batch for c in self.conditions)
        done, openings, warm = 0, _openings(self.vlm), False
        for batch in mine:
            work = _Batch(self, openings)
            for condition in self.conditions:
                chosen = [record for record in batch if record.label in condition.labels]
                if any(self._lacks(journal.entries.get((condition.name, record.id))) for record in chosen):
                    if not warm:  # a model's first passes take longer, and are no condition's cost
                        answer_batch(self.vlm, [self.vlm.encode("Hello", None)], max_new_tokens=4)
                        warm = True
                    journal.add(work.entries(condition, chosen))
                done += len(chosen)
                if progress:
                    progress(done, total)

    def _lacks(self, entry: Entry | None) -> bool:
        """Whether a record is still to be answered; with `strict` also one that an earlier run left out."""
        return entry is None or bool(self.strict and entry.error)

    def _batches(self) -> list[list[Record]]:
        """Records of one kind and of about one length, so that little is padding and no row waits long for the rest."""
        ordered = sorted(self.records, key=lambda r: (LABELS.index(r.label), len(r.prompt), r.id))
        kinds = [[r for r in ordered if r.label == label] for label in LABELS]
        return [kind[k : k + self.batch] for kind in kinds for k in range(0, len(kind), self.batch)]


class _Batch:
    """Records that are answered together under each condition; what several conditions need is made once."""

    def __init__(self, study: Study, openings: frozenset[int]) -> None:
        self.study, self.openings = study, openings
        self.encoded: dict[str, Inputs] = {}
        self.made: dict[object, tuple[Any, float]] = {}

    def entries(self, condition: Condition, records: Sequence[Record]) -> list[Entry]:
        """Answer and judge; in halves where memory runs out, or to find the one record that can't be answered."""
        try:
            return self._answered(condition, records)
        except (CmrmError, MemoryError, RuntimeError) as error:
            failure = error
            # `Vlm.enough_memory` makes a sentence of it, which has the cause.
            full = any(e and out_of_memory(e) for e in (error, error.__cause__))
        if not full and not isinstance(failure, CmrmError):
            raise failure
        if len(records) > 1:
            del failure  # its traceback holds the tensors of the failed pass
            self.study.vlm.prefixes.clear()
            torch.cuda.empty_cache()
            half = len(records) // 2
            return self.entries(condition, records[:half]) + self.entries(condition, records[half:])
        [record] = records
        if full:
            raise CmrmError(
                "Memory ran out on a single answer; use another quantization or device, or ask for fewer tokens."
            ) from failure
        reason = str(failure).removeprefix(f"Record {record.id!r}: ")
        if self.study.strict:
            raise CmrmError(f"Record {record.id!r} under {condition.name!r}: {reason}") from failure
        return [Entry(condition.name, record.id, record.label, error=reason)]

    def _answered(self, condition: Condition, records: Sequence[Record]) -> list[Entry]:
        """Answer and judge, by prompts that can share a pass; an answer's seconds hold all that its defence does."""
        vlm, c, limit = self.study.vlm, condition, self.study.max_new_tokens
        shown, showing = self._once(c.defence.shown, records)
        inputs = [self._encoded(one) for one in shown]
        found = []
        for group in alike(inputs):
            chosen = [records[k] for k in group]
            added, measuring = self._once(c.defence.steering, chosen)
            hooks = None
            if added is not None:
                hooks = steer(vlm, added, c.alpha, layers=c.layers, positions=c.positions, steps=c.steps)
            started = time.perf_counter()
            answers = answer_batch(vlm, [inputs[k] for k in group], hooks, max_new_tokens=limit, openings=self.openings)
            answering = time.perf_counter() - started
            found += self._judged(c, chosen, answers, showing / len(records) + (measuring + answering) / len(chosen))
        return found

    def _once(self, make: Callable[[Sequence[Record]], Made], records: Sequence[Record]) -> tuple[Made, float]:
        """Return what a defence makes of records and the seconds it took, which count wherever it is used again."""
        key = make, tuple(record.id for record in records)
        if key not in self.made:
            started = time.perf_counter()
            made = make(records)
            self.made[key] = made, time.perf_counter() - started
        return self.made[key]

    def _encoded(self, record: Record) -> Inputs:
        key = record.digest()
        if key not in self.encoded:
            inputs = self.study.vlm.encode(record.prompt, record.image)
            self.study.vlm.check_length(inputs["input_ids"].shape[1], self.study.max_new_tokens)
            self.encoded[key] = inputs
        return self.encoded[key]

    def _judged(
        self, condition: Condition, records: Sequence[Record], answers: Sequence[Answered], seconds: float
    ) -> list[Entry]:
        texts = [answer.text for answer in answers]
        verdicts = {judge.name: judge.verdicts(records, texts) for judge in self.study.judges}
        alone = [self._encoded(record) for record in Beside(None).shown(records)]
        fluency = pair_log_probabilities(self.study.vlm, alone, [answer.ids for answer in answers])
        return [
            Entry(
                condition.name,
                record.id,
                record.label,
                answer.text,
                {name: given[k] for name, given in verdicts.items()},
                record.accepts(answer.text) if record.label == "question" else None,
                len(answer.ids),
                round(seconds, 4),
                round(answer.opening, 6) if self.openings else None,
                score and round(score, 4),
            )
            for k, (record, answer, score) in enumerate(zip(records, answers, fluency, strict=True))
        ]


def _openings(vlm: Vlm) -> frozenset[int]:
    try:
        return refusal_openings(vlm)
    except CmrmError:  # a tokenizer of single letters tells none, so that column stays empty
        return frozenset()


def judged_by(
    judge: Judge, entries: Sequence[Entry], records: Sequence[Record], size: int = 64
) -> Iterator[list[Entry]]:
    """Yield entries with one more judge's verdict, `size` at a time, leaving out those that have it or no answer."""
    known = {record.id: record for record in records}
    left = [e for e in entries if not e.error and judge.name not in e.verdicts and e.label != "question"]
    for start in range(0, len(left), size):
        part = left[start : start + size]
        verdicts = judge.verdicts([known[e.record] for e in part], [e.text for e in part])
        yield [replace(e, verdicts={**e.verdicts, judge.name: v}) for e, v in zip(part, verdicts, strict=True)]
