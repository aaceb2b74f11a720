"""A source of data -> records, by the layout that its columns show."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from ..errors import CmrmError
from ..settings import Layout, check_choice
from . import figstep, generic, mmsafetybench, scienceqa, vlsafe, xstest
from .files import RawRecord, find_files, name_files, read_raw
from .image_files import Pictures
from .records import Record


class _Reader(Protocol):
    """What the module of a layout has: the sets of columns that show it, and what reads a row."""

    COLUMNS: list[set[str]]

    def read(self, raw: RawRecord, pictures: Pictures) -> Iterator[Record]: ...


# In the order in which they are tried: another layout's columns may hold those of a later one.
_READERS: dict[Layout, _Reader] = {
    "vlsafe": vlsafe,
    "figstep": figstep,
    "xstest": xstest,
    "scienceqa": scienceqa,
    "generic": generic,
    "mm-safetybench": mmsafetybench,
}


def load_records(
    source: str,
    *,
    layout: Layout = "auto",
    images: Path | None = None,
    skip: Callable[[str], None] | None = None,
) -> list[Record]:
    """Read records in the order of the files; docs/data.md describes sources and layouts.

    `source` is a JSONL, JSON, CSV, TSV or parquet file, a pattern such as `questions/*.json`, or either of them in a
    data set of the hub: `hf://datasets/owner/name[@revision]/file`. `images` is the folder where pictures are looked
    for besides the data file's own, or one picture for every record without one.

    Raises:
        CmrmError: nothing there, or a bad record, by file and line; with `skip`, that sentence goes to it and the rest
            is read on, and only if nothing is left it is an error.
    """
    check_choice("layout", layout, Layout)
    pictures = Pictures(images and Path(images))
    records: dict[str, Record] = {}
    files = find_files(str(source))
    for file, name in zip(files, name_files(files), strict=True):
        reader = None if layout == "auto" else _READERS[layout]
        for raw in read_raw(file, name):
            try:
                if isinstance(raw, CmrmError):
                    raise raw
                reader = reader or _recognise(raw)
                for record in reader.read(raw, pictures):
                    if record.id in records:
                        raise raw.fault(f"another record has the id {record.id!r} too; give each one its own.")
                    records[record.id] = record
            except CmrmError as error:
                if skip is None:
                    raise
                skip(str(error))
    if not records:
        raise CmrmError(f"{str(source)!r} holds no record that can be used; give a file with at least one.")
    return list(records.values())


def _recognise(raw: RawRecord) -> _Reader:
    for reader in _READERS.values():
        if any(columns <= raw.values.keys() for columns in reader.COLUMNS):
            return reader
    raise raw.fault(
        f"its columns ({', '.join(raw.values)}) are those of no known layout; write at least 'prompt' and 'label', or "
        f"name a layout: {', '.join(_READERS)}."
    )
