"""VLSafe: harmful requests about photographs of COCO train2017 (`query`, `image_id`)."""

from collections.abc import Iterator

from .files import RawRecord
from .image_files import Pictures
from .records import Record

COLUMNS = [{"query", "image_id"}]


def read(raw: RawRecord, pictures: Pictures) -> Iterator[Record]:
    """Yield the record; one picture given for all takes the photograph's place, as any image undoes the alignment."""
    prompt, name = raw.text("query"), raw.text("image_id")
    if name.isdigit():
        name = f"{int(name):012}.jpg"
    picture = pictures.given or pictures.find(raw, name, f"train2017/{name}")
    yield Record(raw.id, prompt, picture, "harmful", category="VLSafe")
