"""Images as the model itself describes them, and the ceiling of a caption in place of the image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from PIL import Image

from ..comparison import compare
from ..model import Vlm
from ..records import Record
from .defence import Defence, with_picture, with_prompt


@dataclass(frozen=True)
class Captions:
    """The unsteered model's greedy answer to `request`, made once for each distinct image."""

    vlm: Vlm
    request: str = "Describe the image."
    max_new_tokens: int = 64
    _kept: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def of(self, image: Image.Image) -> str:
        """Return the caption of an image, perhaps an empty one."""
        digest = hashlib.sha256(f"{image.mode}{image.size}".encode() + image.tobytes()).hexdigest()
        if digest not in self._kept:
            *_, last = compare(self.vlm, image, self.request, None, (), max_new_tokens=self.max_new_tokens)
            self._kept[digest] = last.rows[0].text.strip()
        return self._kept[digest]


@dataclass(frozen=True)
class Captioned(Defence):
    """Caption and prompt, no image: how safe the model would be if it read the image as text."""

    captions: Captions
    name: str = "caption, no image"

    def shown(self, record: Record) -> Record:
        """Return the record with its image put into words; one without an image stays as it is."""
        image = record.image
        if image is None:
            return record
        caption = self.captions.of(image)
        prompt = f"An image shows this: {caption}\n\n{record.prompt}" if caption else record.prompt
        return with_prompt(with_picture(record, None), prompt)
