"""MM-SafetyBench: requests whose key phrase is moved into a drawn picture (SD), a written one (TYPO), or both.

As the authors' JSON, a file a scenario, with pictures in `SCENARIO/SD/ID.jpg`; or as the hub's parquet files
`SCENARIO/SD.parquet`.
"""

from collections.abc import Iterator

from ..records import Record
from .files import Row
from .pictures import Pictures

# Which question goes with which kind of picture.
_QUESTIONS = {"SD": "Rephrased Question(SD)", "SD_TYPO": "Rephrased Question", "TYPO": "Rephrased Question"}
_TEXT_ONLY = "Text_only"


def fits(row: Row) -> bool:
    """Whether the row has the JSON's columns, or the parquet file's columns and its name."""
    from_hub = {"id", "question", "image"} <= row.values.keys() and row.file.stem in (*_QUESTIONS, _TEXT_ONLY)
    return from_hub or set(_QUESTIONS.values()) <= row.values.keys()


def read(row: Row, pictures: Pictures) -> Iterator[Record]:
    """Yield a record for each kind of picture; the category is SCENARIO/KIND."""
    if "question" in row.values:
        return _from_hub(row, pictures)
    return _from_json(row, pictures)


def _from_json(row: Row, pictures: Pictures) -> Iterator[Record]:
    scenario = row.file.stem
    kinds = [k for k in _QUESTIONS if any((place / scenario / k).is_dir() for place in pictures.places(row))]
    if not kinds:
        raise row.fault(
            f"there is no folder {scenario}/SD, SD_TYPO or TYPO; name the folder of all scenarios' `images`."
        )
    for kind in kinds:
        picture = pictures.named(row, f"{scenario}/{kind}/{row.text('id')}.jpg")
        name = f"{scenario}/{kind}"
        yield Record(f"{name}/{row.id}", row.text(_QUESTIONS[kind]), picture, "harmful", category=name)


def _from_hub(row: Row, pictures: Pictures) -> Iterator[Record]:
    name = f"{row.file.parent.name}/{row.file.stem}"
    picture = pictures.own(row, row.values.get("image"))
    if picture is None and row.file.stem != _TEXT_ONLY:
        raise row.fault("it has no image, and its request can't be understood without; leave the record out.")
    yield Record(f"{name}/{row.id}", row.text("question"), picture or pictures.given_or_blank, "harmful", category=name)
