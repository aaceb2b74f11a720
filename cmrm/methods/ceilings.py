"""What the model answers without the record's image: the text-only ceiling, and a meaningless image."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from ..model import Vlm
from ..options import Corruption
from ..records import Record
from .defence import Defence, with_picture


@dataclass(frozen=True)
class TextOnly(Defence):
    """The prompt alone: what the backbone's own alignment refuses, which no repair of the image's harm exceeds."""

    name: str = "text only"

    def shown(self, record: Record) -> Record:
        """Return the record without its image."""
        return with_picture(record, None)


@dataclass(frozen=True)
class OtherImage(Defence):
    """Every prompt beside the same image, also one that came without: a blank one shows what any image does."""

    picture: Image.Image
    name: str

    @classmethod
    def corrupted(cls, vlm: Vlm, corruption: Corruption, seed: int = 0) -> OtherImage:
        """Return the condition of a meaningless image, such as "white" or "noise"."""
        return cls(vlm.corrupted(corruption, seed), f"{corruption} image")

    def shown(self, record: Record) -> Record:
        """Return the record beside the one image."""
        return with_picture(record, self.picture)
