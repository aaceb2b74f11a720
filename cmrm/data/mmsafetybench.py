"""MM-SafetyBench: requests whose key phrase is moved into a drawn picture (SD), a written one (TYPO), or both.

As the authors' JSON, a file a scenario, with pictures in `SCENARIO/SD/ID.jpg`; or as the hub's parquet files
`SCENARIO/SD.parquet`.
"""

from collections.abc import Iterator

from .files import Row
from .image_files import Pictures
from .records import Record

COLUMNS = [{"Rephrased Question", "Rephrased Question(SD)"}, {"id", "question", "image"}]

# Which question goes with which kind of picture.
_QUESTIONS = {"SD": "Rephrased Question(SD)", "SD_TYPO": "Rephrased Question", "TYPO": "Rephrased Question"}
_TEXT_ONLY = "Text_only"


def read(row: Row, pictures: Pictures) -> Iterator[Record]:
    """Yield a record for each kind of picture; the category is SCENARIO/KIND."""
    if "question" in row.values:
        name, value = f"{row.file.parent.name}/{row.file.stem}", row.values.get("image")
        if row.file.stem not in (*_QUESTIONS, _TEXT_ONLY):
            raise row.fault(
                "MM-SafetyBench's files are SD, SD_TYPO, TYPO, Text_only; for other data, write 'prompt' and 'label'."
            )
        if not value and row.file.stem != _TEXT_ONLY:
            raise row.fault("it has no image, and its request can't be understood without; leave the record out.")
        picture = pictures.own(row, value) or pictures.given_or_blank
        yield Record(f"{name}/{row.id}", row.text("question"), picture, "harmful", category=name)
        return
    scenario = row.file.stem
    kinds = [k for k in _QUESTIONS if any((place / scenario / k).is_dir() for place in pictures.places(row))]
    if not kinds:
        raise row.fault(f"there is no folder {scenario}/SD, SD_TYPO or TYPO; name the one they are in as `images`.")
    for kind in kinds:
        found = pictures.find(row, f"{scenario}/{kind}/{row.id}.jpg")
        name = f"{scenario}/{kind}"
        yield Record(f"{name}/{row.id}", row.text(_QUESTIONS[kind]), found, "harmful", category=name)
