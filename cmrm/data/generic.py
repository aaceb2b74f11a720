"""The project's own layout: `prompt`, `label`, `image`, `answers`, `category`, `id`."""

from collections.abc import Iterator

from .files import RawRecord
from .image_files import Pictures
from .records import LABELS, Record

COLUMNS = [{"prompt", "label"}]


def read(raw: RawRecord, pictures: Pictures) -> Iterator[Record]:
    """Yield the record; one without a picture gets the one given for all."""
    label, answers = raw.text("label"), _answers(raw.values.get("answers"))
    if label not in LABELS:
        raise raw.fault(f"its label is {label!r}, but it must be one of {', '.join(LABELS)}; mend it.")
    if label == "question" and not answers:
        raise raw.fault("a question needs its accepted answers; list them in 'answers'.")
    picture = pictures.own(raw, raw.values.get("image")) or pictures.given
    if picture is None:
        raise raw.fault("it has no image; name one in 'image', or give one picture for all such records as `images`.")
    yield Record(raw.id, raw.text("prompt"), picture, label, answers, str(raw.values.get("category") or ""))


def _answers(value: object) -> tuple[str, ...]:
    """A list, or a text with | between the answers."""
    listed = value if isinstance(value, list) else [] if value is None else str(value).split("|")
    return tuple(str(answer) for answer in listed if str(answer).strip())
