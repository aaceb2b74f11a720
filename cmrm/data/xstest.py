"""XSTest: safe requests that sound unsafe, and their unsafe counterparts; texts, shown beside a blank picture."""

from collections.abc import Iterator

from .files import RawRecord
from .image_files import Pictures
from .records import Record

_LABELS = {"safe": "harmless", "unsafe": "harmful"}

COLUMNS = [{"prompt", "type", "focus"}]


def read(raw: RawRecord, pictures: Pictures) -> Iterator[Record]:
    """Yield the record; files without a `label` mark unsafe requests by their type, `contrast_...`."""
    kind = raw.text("type")
    label = raw.text("label") if "label" in raw.values else "unsafe" if kind.startswith("contrast") else "safe"
    if label not in _LABELS:
        raise raw.fault(f"its label is {label!r}, but it must be safe or unsafe; mend it.")
    yield Record(raw.id, raw.text("prompt"), pictures.given_or_blank, _LABELS[label], category=kind)
