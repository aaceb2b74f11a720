"""Every condition's answer to every record, in batches, journalled: what was answered is never answered again."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from accelerate.utils.memory import should_reduce_batch_size

from ..errors import CmrmError, first_sentence
from ..fluency import pair_log_probabilities
from ..judges import Judge
from ..methods.defence import Defence
from ..model import Inputs, Vlm
from ..openings import refusal_openings
from ..options import Positions, Steps
from ..records import Record
from ..steering import Steering, steer
from .batches import Answered, alike, answer_batch
from .journal import Entry, Journal
from .processes import Processes

Progress = Callable[[int, int], None]
LABELS = ("harmful", "harmless", "question")


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
        done, openings, warm = 0, refusal_openings(self.vlm), False
        for batch in mine:
            work = _Batch(self, openings)
            for condition in self.conditions:
                chosen = [record for record in batch if record.label in condition.labels]
                if any((condition.name, record.id) not in journal.entries for record in chosen):
                    if not warm:  # a model's first passes take longer, and are no condition's cost
                        answer_batch(self.vlm, [self.vlm.encode("Hello", None)], max_new_tokens=4)
                        warm = True
                    journal.add(work.entries(condition, chosen))
                done += len(chosen)
                if progress:
                    progress(done, total)

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
        self.added: dict[tuple[int, tuple[str, ...]], tuple[Steering | None, float]] = {}

    def entries(self, condition: Condition, records: Sequence[Record]) -> list[Entry]:
        """Answer and judge; a record that can't be encoded gets an entry with the reason."""
        shown = {record.id: self._inputs(condition, record) for record in records}
        failed = {key: error for key, error in shown.items() if isinstance(error, CmrmError)}
        if failed and self.study.strict:
            key, error = next(iter(failed.items()))
            reason = str(error).removeprefix(f"Record {key!r}: ")
            raise CmrmError(f"Record {key!r} under {condition.name!r}: {reason}")
        good = [record for record in records if record.id not in failed]
        inputs = [one for one in shown.values() if not isinstance(one, CmrmError)]
        made = [Entry(condition.name, key, _label(records, key), error=str(error)) for key, error in failed.items()]
        for group in alike(inputs):
            made += self._made(condition, [good[index] for index in group], [inputs[index] for index in group])
        return made

    def _made(self, condition: Condition, records: Sequence[Record], inputs: Sequence[Inputs]) -> list[Entry]:
        """Answer and judge; in halves where memory runs out, or to find the one record that can't be steered."""
        try:
            answers, seconds = self._answers(condition, records, inputs)
            return self._judged(condition, records, answers, seconds / len(records))
        except (CmrmError, MemoryError, RuntimeError) as error:
            failure = error
            # `Vlm.enough_memory` makes a sentence of it, which has the cause.
            full = any(e and _out_of_memory(e) for e in (error, error.__cause__))
        if not full and not isinstance(failure, CmrmError):
            raise failure
        if len(records) > 1:
            del failure  # its traceback holds the tensors of the failed pass
            self.study.vlm.prefixes.clear()
            torch.cuda.empty_cache()
            half = len(records) // 2
            parts = (slice(half), slice(half, None))
            return [entry for part in parts for entry in self._made(condition, records[part], inputs[part])]
        [record] = records
        if full:
            raise CmrmError(
                "Memory ran out on a single answer; use another quantization or device, or ask for fewer tokens."
            ) from failure
        if self.study.strict:
            raise CmrmError(f"Record {record.id!r} under {condition.name!r}: {failure}") from failure
        return [Entry(condition.name, record.id, record.label, error=str(failure))]

    def _inputs(self, condition: Condition, record: Record) -> Inputs | CmrmError:
        try:
            shown = condition.defence.shown(record)
            key = shown.digest()
            if key not in self.encoded:
                inputs = self.study.vlm.encode(shown.prompt, shown.image)
                self.study.vlm.check_length(inputs["input_ids"].shape[1], self.study.max_new_tokens)
                self.encoded[key] = inputs
            return self.encoded[key]
        except CmrmError as error:
            return error
        except ValueError as error:  # a processor's own, such as for a picture far longer than wide
            return CmrmError(
                f"The model's processor can't take it ({first_sentence(error)}); mend its picture or leave it out."
            )

    def _alone(self, record: Record) -> Inputs:
        key = f"text {record.id}"
        if key not in self.encoded:
            self.encoded[key] = self.study.vlm.encode(record.prompt, None)
        return self.encoded[key]

    def _answers(
        self, condition: Condition, records: Sequence[Record], inputs: Sequence[Inputs]
    ) -> tuple[list[Answered], float]:
        """Return the answers and the seconds they took, measuring what is added included."""
        vlm, c = self.study.vlm, condition
        added, measuring = self._steering(c, records)
        hooks = None
        if added is not None:
            hooks = steer(vlm, added, c.alpha, layers=c.layers, positions=c.positions, steps=c.steps)
        started = time.perf_counter()
        limit = self.study.max_new_tokens
        answers = answer_batch(vlm, inputs, hooks, max_new_tokens=limit, openings=self.openings)
        return answers, measuring + time.perf_counter() - started

    def _steering(self, condition: Condition, records: Sequence[Record]) -> tuple[Steering | None, float]:
        """What a defence adds, and the seconds it took, once for all conditions with that defence."""
        key = id(condition.defence), tuple(record.id for record in records)
        if key not in self.added:
            started = time.perf_counter()
            added = condition.defence.steering(records)
            self.added[key] = added, time.perf_counter() - started
        return self.added[key]

    def _judged(
        self, condition: Condition, records: Sequence[Record], answers: Sequence[Answered], seconds: float
    ) -> list[Entry]:
        texts = [answer.text for answer in answers]
        verdicts = {judge.name: judge.verdicts(records, texts) for judge in self.study.judges}
        alone = [self._alone(record) for record in records]
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
                round(answer.opening, 6),
                score and round(score, 4),
            )
            for k, (record, answer, score) in enumerate(zip(records, answers, fluency, strict=True))
        ]


def _out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's memory or, by the words of torch's allocator for it, the machine's ran out."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and should_reduce_batch_size(error)
    )


def _label(records: Sequence[Record], key: str) -> str:
    return next(record.label for record in records if record.id == key)


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
