"""What an evaluation has answered so far: a file that only grows, so that a run goes on where it stopped."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..errors import CmrmError
from ..files import write_whole
from ..judging.phrases import Verdict

ROWS = "rows.jsonl"
RUN = "run.json"
COST = "cost.json"


@dataclass(frozen=True)
class Entry:
    """One condition's answer to one record, or the reason (`error`) why there is none.

    `verdicts` are by judge; `right` is None for what is no question. `opening` is the probability of a refusal's
    first token, `fluency` the mean log-probability a token (natural log) under the unsteered text-only model, and
    `seconds` the answer's share of its batch's time.
    """

    condition: str
    record: str
    label: str
    text: str = ""
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    right: bool | None = None
    tokens: int = 0
    seconds: float = 0.0
    opening: float | None = None
    fluency: float | None = None
    error: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What the entry answers: condition and record."""
        return self.condition, self.record


class Journal:
    """The entries of a run in a folder; of two with one key the later counts.

    Each process appends to a file of its own: `rows.jsonl` and `rows-1.jsonl`, `rows-2.jsonl` ... All are read at
    the start, so a run may go on with another number of processes.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object], process: int = 0) -> None:
        """Open or begin a run.

        Raises:
            CmrmError: the folder can't be written, holds a run of other settings, or a line that is no entry.
        """
        self.folder = folder
        self._grown = False
        self._path = folder / (ROWS if process == 0 else f"rows-{process}.jsonl")
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            _check_settings(folder / RUN, json.loads(json.dumps(settings)))
            self.entries: dict[tuple[str, str], Entry] = {}
            for path in sorted(folder.glob("rows*.jsonl")):
                whole, entries = _read(path)
                self.entries.update((entry.key, entry) for entry in entries)
                if path == self._path and whole < path.stat().st_size:
                    os.truncate(path, whole)

    def add(self, entries: Iterable[Entry]) -> None:
        """Keep entries, on the disk before anything else happens.

        Raises:
            CmrmError: the disk is full or can't be written; what was kept before stays whole.
        """
        new = list(entries)
        with _writing(self.folder), self._path.open("ab") as file:
            file.write("".join(map(_line, new)).encode())
            file.flush()
            os.fsync(file.fileno())
        self.entries.update((entry.key, entry) for entry in new)
        self._grown = True

    def spend(self, hours: float, gpu_memory: int) -> dict[str, float]:
        """Return the hours of all runs that kept something, with this one's, and the most GPU memory (bytes) of any."""
        path = self.folder / COST
        total = {"hours": 0.0, "gpu_memory": 0, **(_object(path) if path.is_file() else {})}
        if self._grown:
            total = {"hours": total["hours"] + hours, "gpu_memory": max(total["gpu_memory"], gpu_memory)}
            write(path, json.dumps(total))
        return total

    def finish(self, order: Iterable[tuple[str, str]]) -> list[Entry]:
        """Write all entries of the given keys as one `rows.jsonl` in that order, and return them."""
        final = [self.entries[key] for key in order if key in self.entries]
        write(self.folder / ROWS, "".join(map(_line, final)))
        for path in self.folder.glob("rows-*.jsonl"):
            path.unlink()
        return final


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        CmrmError: the disk is full or can't be written.
    """
    with _writing(path.parent):
        write_whole(path, text.encode())


def dump(entries: Iterable[Entry]) -> bytes:
    """Return entries as JSON lines."""
    return "".join(map(_line, entries)).encode()


def parse(lines: bytes) -> list[Entry]:
    """Read what `dump` returned."""
    return [Entry(**json.loads(line)) for line in lines.splitlines()]


def _line(entry: Entry) -> str:
    return json.dumps(asdict(entry), ensure_ascii=False) + "\n"


def _read(path: Path) -> tuple[int, list[Entry]]:
    """Return how many bytes are whole lines, and their entries: a last line may have been cut off."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    entries = []
    for number, line in enumerate(content[:whole].splitlines(), 1):
        try:
            entries.append(Entry(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise CmrmError(
                f"{path}, line {number} is no answer of an evaluation; delete that line, or choose another --out."
            ) from error
    return whole, entries


def _check_settings(path: Path, settings: dict[str, object]) -> None:
    if not path.is_file():
        write(path, json.dumps(settings, indent=2))
        return
    before = _object(path)
    changed = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
    if changed:
        raise CmrmError(
            f"{path.parent} holds a run with another {', '.join(changed)}, which this one can't go on with; choose "
            "another --out, or repeat that run's command."
        )


def _object(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise CmrmError(f"{path} is damaged, so the run can't go on; choose another --out.")
    return found


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Say in one sentence why files in `folder` can't be written."""
    try:
        yield
    except OSError as error:
        raise CmrmError(
            f"{str(folder)!r} can't be written ({error.strerror or error}), so the run stopped; what was answered "
            "before is kept: make room or choose another --out, and run the same command again."
        ) from error
