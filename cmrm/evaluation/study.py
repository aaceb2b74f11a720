"""Every condition's answer to every record, in batches, journalled: what was answered is never answered again."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock

from ..answering.steps import Answered
from ..data.records import LABELS, Record
from ..engines.base import Engine
from ..errors import CmrmError, OutOfMemoryError, ServerError
from ..judging.judges import Judge
from ..judging.openings import refusal_openings
from ..methods.defence import Added, Defence
from ..model.processes import Processes
from ..progress import Progress
from ..settings import Settings
from ..steering.vectors import Prompt, Steered
from .journal import Entry, Journal

_Key = tuple[int, tuple[str, ...]]
"""A defence and the records that it is for."""


@dataclass(frozen=True)
class Condition:
    """One row of the table: what the model is asked and what is added, how much and where by settled settings.

    Conditions named "... #1", "... #2" are seeds of one row. `labels` are the kinds of record that it answers.
    """

    name: str
    group: str
    defence: Defence
    settings: Settings
    labels: tuple[str, ...] = LABELS

    def vary(self, name: str, group: str, **changes: object) -> "Condition":
        """Return this row under another name and with some other settings."""
        settings = replace(self.settings, **changes)  # type: ignore[arg-type]  # which checks them
        return replace(self, name=name, group=group, settings=settings)

    def json(self) -> dict[str, object]:
        """Return what the condition is, as JSON."""
        return {"group": self.group, **self.settings.json()}

    def steer(self, vectors: Added) -> Steered | None:
        """Return what the defence's vectors do in this row, None for nothing."""
        return None if vectors is None else Steered.by(self.settings, vectors)


@dataclass(frozen=True)
class Study:
    """Records and conditions, answered `batch` records at a time.

    What shares a batch depends on the records alone, so neither an interruption nor the number of processes
    changes an answer. With `strict` the first record that can't be answered ends the run.
    """

    engine: Engine
    records: Sequence[Record]
    conditions: Sequence[Condition]
    judges: Sequence[Judge]
    batch: int
    strict: bool

    @property
    def keys(self) -> list[tuple[str, str]]:
        """Return every condition and record to be answered, in the order of the report."""
        return [(c.name, r.id) for c in self.conditions for r in self.records if r.label in c.labels]

    def run(self, journal: Journal, processes: Processes, progress: Callable[[Progress], None] | None = None) -> None:
        """Answer what the journal lacks, sharing the batches among processes.

        Raises:
            ServerError: a fault of the server, which is no record's.
            CmrmError: memory for not even one row, or with `strict` a record that can't be answered.
        """
        mine = self._batches()[processes.index :: processes.count]
        total = sum(record.label in c.labels for batch in mine for record in batch for c in self.conditions)
        done, warm = 0, False
        with self._in_turn_or_together() as answer_each:
            for batch in mine:
                # 1. What the journal lacks of this batch, by condition.
                asked = [(c, [record for record in batch if record.label in c.labels]) for c in self.conditions]
                due = [(c, chosen) for c, chosen in asked if self._lack_any(journal, c, chosen)]
                done += sum(len(chosen) for _, chosen in asked) - sum(len(chosen) for _, chosen in due)
                # 2. A model's first passes take longer, and are no condition's cost.
                if due and not warm:
                    self.engine.answer_batch([Prompt("Hello")], max_new_tokens=4)
                    warm = True
                # 3. The answers, noted condition by condition.
                for entries in answer_each(_Batch(self).entries, [c for c, _ in due], [chosen for _, chosen in due]):
                    journal.add(entries)
                    done += len(entries)
                    if progress:
                        progress(Progress("answering", done, total))

    @contextmanager
    def _in_turn_or_together(self) -> Iterator[Callable[..., Iterable[list[Entry]]]]:
        """Give what maps conditions to their entries: one by one in this process, all at once in a server."""
        if self.engine.at_once == 1:
            yield map
            return
        with ThreadPoolExecutor(self.engine.at_once) as pool:
            yield lambda ask, *columns: _as_they_come([pool.submit(ask, *row) for row in zip(*columns, strict=True)])

    @cached_property
    def openings(self) -> frozenset[int]:
        """Return the token ids that begin a refusal; none where tokens are single letters, which tell nothing."""
        try:
            return refusal_openings(self.engine.tokenizer)
        except CmrmError:
            return frozenset()

    def _lack_any(self, journal: Journal, condition: Condition, records: Sequence[Record]) -> bool:
        """Whether a record is still to be answered; with `strict` also one that an earlier run left out."""
        entries = [journal.entries.get((condition.name, record.id)) for record in records]
        return any(entry is None or (self.strict and entry.error) for entry in entries)

    def _batches(self) -> list[list[Record]]:
        """Records of one kind and of about one length, so that little is padding and no row waits long for the rest."""
        ordered = sorted(self.records, key=lambda r: (len(r.prompt), r.id))
        kinds = [[r for r in ordered if r.label == label] for label in LABELS]
        return [kind[k : k + self.batch] for kind in kinds for k in range(0, len(kind), self.batch)]


def _as_they_come(coming: Sequence[Future[list[Entry]]]) -> Iterator[list[Entry]]:
    """Yield what is answered; the first failure is raised behind all that ran beside it, and ends what had to wait."""
    failure = None
    try:
        for one in as_completed(coming):
            if one.cancelled():
                continue
            if (problem := one.exception()) is None:
                yield one.result()
            elif failure is None:
                failure = problem
                for other in coming:
                    other.cancel()
    finally:
        for one in coming:
            one.cancel()
    if failure is not None:
        raise failure


class _Batch:
    """Records that are answered together under each condition; what several conditions need is made once."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._locks: dict[_Key, Lock] = {}
        self.defended: dict[_Key, tuple[Sequence[Record], Added, float]] = {}

    def entries(self, condition: Condition, records: Sequence[Record]) -> list[Entry]:
        """Answer and judge; in halves where memory runs out, or to find the one record that can't be answered."""
        try:
            return self._answer(condition, records)
        except ServerError:
            raise
        except CmrmError as error:
            failure = error
        if len(records) > 1:
            del failure  # its traceback holds what the failed pass had in memory
            half = len(records) // 2
            return self.entries(condition, records[:half]) + self.entries(condition, records[half:])
        [record] = records
        if isinstance(failure, OutOfMemoryError):
            raise CmrmError(
                "Memory ran out on a single answer; use another quantization or device, or ask for fewer tokens."
            ) from failure
        reason = str(failure).removeprefix(f"Record {record.id!r}: ")
        if self.study.strict:
            raise CmrmError(f"Record {record.id!r} under {condition.name!r}: {reason}") from failure
        return [Entry(condition.name, record.id, record.label, error=reason)]

    def _answer(self, condition: Condition, records: Sequence[Record]) -> list[Entry]:
        """Answer and judge; an answer's seconds are its share of all that its defence does."""
        shown, vectors, spent = self._defend(condition.defence, records)
        prompts = [Prompt(one.prompt, one.image) for one in shown]
        started = time.perf_counter()
        answers = self.study.engine.answer_batch(
            prompts,
            condition.steer(vectors),
            max_new_tokens=condition.settings.max_new_tokens,
            openings=self.study.openings,
        )
        seconds = spent + time.perf_counter() - started
        return self._judge(condition, records, answers, seconds / len(records))

    def _defend(self, defence: Defence, records: Sequence[Record]) -> tuple[Sequence[Record], Added, float]:
        """What a defence shows and adds, and the seconds that took, which count wherever it is used again."""
        key = id(defence), tuple(record.id for record in records)
        with self._locks.setdefault(key, Lock()):
            if key not in self.defended:
                started = time.perf_counter()
                shown, vectors = defence.show(records), defence.steering(records)
                self.defended[key] = shown, vectors, time.perf_counter() - started
            return self.defended[key]

    def _judge(
        self, condition: Condition, records: Sequence[Record], answers: Sequence[Answered], seconds: float
    ) -> list[Entry]:
        texts = [answer.text for answer in answers]
        verdicts = {judge.name: judge.judge(records, texts) for judge in self.study.judges}
        alone = [Prompt(record.prompt) for record in records]
        fluency = self.study.engine.log_probabilities(alone, [answer.ids for answer in answers])
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
                round(answer.opening, 6) if self.study.openings else None,
                score and round(score, 4),
            )
            for k, (record, answer, score) in enumerate(zip(records, answers, fluency, strict=True))
        ]


def judge_entries(
    judge: Judge, entries: Sequence[Entry], records: Sequence[Record], size: int = 64
) -> Iterator[list[Entry]]:
    """Yield entries with one more judge's verdict, `size` at a time, leaving out those that have it or no answer."""
    known = {record.id: record for record in records}
    left = [e for e in entries if not e.error and judge.name not in e.verdicts and e.label != "question"]
    for start in range(0, len(left), size):
        part = left[start : start + size]
        verdicts = judge.judge([known[e.record] for e in part], [e.text for e in part])
        yield [replace(e, verdicts={**e.verdicts, judge.name: v}) for e, v in zip(part, verdicts, strict=True)]
