"""What the model answers without the record's image: the text-only ceiling, and a meaningless image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from ..data.records import Record
from .defence import Defence


@dataclass(frozen=True)
class ReplacedImage(Defence):
    """Every prompt beside the same image, also one that came without, or (None) by itself.

    Text alone shows what the backbone's own alignment refuses, which no repair of the image's harm exceeds;
    a blank image shows what any image does.
    """

    picture: Image.Image | None

    def show(self, records: Sequence[Record]) -> list[Record]:
        """Return the records with that image, or with none."""
        return [replace(record, picture=self.picture) for record in records]
