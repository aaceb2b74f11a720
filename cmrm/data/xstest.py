"""XSTest: safe requests that sound unsafe, and their unsafe counterparts; texts, shown beside a blank picture."""

from collections.abc import Iterator

from .files import Row
from .image_files import Pictures
from .records import Record

_LABELS = {"safe": "harmless", "unsafe": "harmful"}

COLUMNS = [{"prompt", "type", "focus"}]


def read(row: Row, pictures: Pictures) -> Iterator[Record]:
    """Yield the record; files without a `label` mark unsafe requests by their type, `contrast_...`."""
    kind = row.text("type")
    label = row.text("label") if "label" in row.values else "unsafe" if kind.startswith("contrast") else "safe"
    if label not in _LABELS:
        raise row.fault(f"its label is {label!r}, but it must be safe or unsafe; mend it.")
    yield Record(row.id, row.text("prompt"), pictures.given_or_blank, _LABELS[label], category=kind)
