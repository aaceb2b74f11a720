"""Data files: where a source leads, and the rows of each file."""

import csv
import glob
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import parse_hf_uri, snapshot_download

from ..errors import CmrmError, first_sentence

HUB = "hf://"
# A whole data set is read from its files of the first of these kinds; JSON is often about the set.
_WHOLE = (".parquet", ".jsonl", ".csv", ".tsv")
_BATCH = 8  # rows of a parquet file in memory at once: their pictures may be large


@dataclass(frozen=True)
class RawRecord:
    """One entry of a data file: its values by column; `where` is its place in the file, such as "line 3".

    `name` is what ids call the file: short, but no other file of the source is called so.
    """

    values: dict[str, object]
    file: Path
    where: str
    name: str

    def fault(self, why: str) -> CmrmError:
        """Return an error that names this row; `why` says what is wrong and what to do."""
        return CmrmError(f"{self.file.name}, {self.where}: {why}")

    def text(self, column: str) -> str:
        """Return a column's text.

        Raises:
            CmrmError: the column is missing, blank or holds no text.
        """
        value = self.values.get(column)
        if isinstance(value, (dict, list, bytes)) or value is None or not str(value).strip():
            raise self.fault(f"there is no {column!r}; write it there, or leave the record out.")
        # JSON may hold half a character, which no file and no tokenizer takes.
        return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    @property
    def id(self) -> str:
        """The row's own id, else one made of the file's name and the place in it."""
        own = self.values.get("id")
        return f"{self.name}-{self.where.split()[-1]}" if own is None or own == "" else self.text("id")


def find_files(source: str) -> list[Path]:
    """Return the files of a path, of a pattern such as `data/*.json`, or of either of them in a repository of the hub.

    Those are fetched into the hub's own cache, and read from there with HF_HUB_OFFLINE=1. `hf:owner/name` is short for
    a data set's `hf://datasets/owner/name/` and, with nothing behind it, for all its files of the kind that it has.

    Raises:
        CmrmError: no such file, or a repository that can't be read.
    """
    if source.startswith("hf:") and not source.startswith(HUB):
        source = f"{HUB}datasets/{source.removeprefix('hf:')}"
    root, pattern = _fetch(source) if source.startswith(HUB) else (Path(), source)
    names = [pattern] if os.path.isfile(root / pattern) else sorted(glob.glob(pattern, root_dir=root, recursive=True))
    files = [root / name for name in names if os.path.isfile(root / name)]
    if not files:
        raise CmrmError(f"There is no data file {source!r}; check the path, and for a folder put `/*.jsonl` behind it.")
    return files


def _fetch(source: str) -> tuple[Path, str]:
    try:
        place = parse_hf_uri(source)
        wanted = [place.path_in_repo] if place.path_in_repo else [f"*{kind}" for kind in _WHOLE]
        folder = snapshot_download(place.id, repo_type=place.type, revision=place.revision, allow_patterns=wanted)
    # The hub's client reports a bad address, a missing file and a missing network by many exception types.
    except Exception as error:
        raise CmrmError(
            f"The data {source!r} could not be read from the hub ({first_sentence(error)}); check the address "
            f"({HUB}datasets/owner/name[@revision]/file), the network, and HF_TOKEN if it is gated."
        ) from error
    if place.path_in_repo:
        return Path(folder), place.path_in_repo
    there = {path.suffix for path in Path(folder).rglob("*")}
    kind = next((kind for kind in _WHOLE if kind in there), _WHOLE[0])
    return Path(folder), f"**/*{kind}"


def name_files(files: Sequence[Path]) -> list[str]:
    """Return what ids call each file: its name without the ending, or its path where several have one name."""
    stems = [path.stem for path in files]
    if len(set(stems)) == len(stems):
        return stems
    root = os.path.commonpath([path.parent for path in files])
    return [path.relative_to(root).as_posix() for path in files]


def read_raw(path: Path, name: str) -> Iterator[RawRecord | CmrmError]:
    """Yield the rows of a JSONL, JSON, CSV, TSV or parquet file, and an error in place of one that is none.

    Raises:
        CmrmError: a file of another kind, or one that can't be read on.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise CmrmError(f"{path.name!r} is none of {', '.join(_READERS)}; convert it to one of them.")
    try:
        for where, values in reader(path):
            raw = RawRecord(values if isinstance(values, dict) else {}, path, where, name)
            yield raw if isinstance(values, dict) else raw.fault(f"{values}; mend it, or take it out.")
    except (OSError, ValueError, csv.Error, RecursionError, NotImplementedError) as error:
        if isinstance(error, CmrmError):
            raise
        raise CmrmError(
            f"{path.name!r} could not be read ({first_sentence(error)}); give a whole file, text in UTF-8."
        ) from error


def _json_lines(path: Path) -> Iterator[tuple[str, object]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"line {number}", _object(line)


def _object(line: str) -> dict | str:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"it is not JSON ({first_sentence(error)})"
    return values if isinstance(values, dict) else "it is no JSON object"


def _json(path: Path) -> Iterator[tuple[str, object]]:
    """A list of objects, or an object of them, whose keys are their ids."""
    whole = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(whole, (list, dict)):
        raise ValueError("it holds neither a list nor an object")
    for key, values in whole.items() if isinstance(whole, dict) else enumerate(whole, 1):
        with_id = {"id": key} if isinstance(whole, dict) else {}
        yield f"entry {key}", {**with_id, **values} if isinstance(values, dict) else "it is no JSON object"


def _table(path: Path) -> Iterator[tuple[str, object]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        for values in reader:
            whole = None not in values and None not in values.values()
            yield f"line {reader.line_num}", values if whole else "its fields are not those of the header"


def _parquet(path: Path) -> Iterator[tuple[str, object]]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise CmrmError(f"Reading {path.name!r} needs pyarrow; run `pip install pyarrow`.") from error
    number = 0
    with ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:  # else all of it is read ahead
        for batch in file.iter_batches(batch_size=_BATCH):
            for values in batch.to_pylist():
                number += 1
                yield f"row {number}", values


_READERS = {".jsonl": _json_lines, ".json": _json, ".csv": _table, ".tsv": _table, ".parquet": _parquet}
