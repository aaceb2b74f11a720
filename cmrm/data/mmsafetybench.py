"""MM-SafetyBench: requests whose key phrase is moved into a drawn picture (SD), a written one (TYPO), or both.

As the authors' JSON, a file a scenario, with pictures in `SCENARIO/SD/ID.jpg`; or as the hub's parquet files
`SCENARIO/SD.parquet`.
"""

from collections.abc import Iterator

from .files import RawRecord
from .image_files import Pictures
from .records import Record

COLUMNS = [{"Rephrased Question", "Rephrased Question(SD)"}, {"id", "question", "image"}]

# Which question goes with which kind of picture.
_QUESTIONS = {"SD": "Rephrased Question(SD)", "SD_TYPO": "Rephrased Question", "TYPO": "Rephrased Question"}
_TEXT_ONLY = "Text_only"


def read(raw: RawRecord, pictures: Pictures) -> Iterator[Record]:
    """Yield a record for each kind of picture; the category is SCENARIO/KIND."""
    if "question" in raw.values:
        name, value = f"{raw.file.parent.name}/{raw.file.stem}", raw.values.get("image")
        if raw.file.stem not in (*_QUESTIONS, _TEXT_ONLY):
            raise raw.fault(
                "MM-SafetyBench's files are SD, SD_TYPO, TYPO, Text_only; for other data, write 'prompt' and 'label'."
            )
        if not value and raw.file.stem != _TEXT_ONLY:
            raise raw.fault("it has no image, and its request can't be understood without; leave the record out.")
        picture = pictures.own(raw, value) or pictures.given_or_blank
        yield Record(f"{name}/{raw.id}", raw.text("question"), picture, "harmful", category=name)
        return
    scenario = raw.file.stem
    kinds = [k for k in _QUESTIONS if any((place / scenario / k).is_dir() for place in pictures.places(raw))]
    if not kinds:
        raise raw.fault(f"there is no folder {scenario}/SD, SD_TYPO or TYPO; name the one they are in as `images`.")
    for kind in kinds:
        found = pictures.find(raw, f"{scenario}/{kind}/{raw.id}.jpg")
        name = f"{scenario}/{kind}"
        yield Record(f"{name}/{raw.id}", raw.text(_QUESTIONS[kind]), found, "harmful", category=name)
