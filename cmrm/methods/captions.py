"""Images as the model itself describes them: the ceiling of a caption in place of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..answering.batches import alike, answer_batch
from ..data.records import Record
from ..model.vlm import Vlm
from .defence import Defence

REQUEST = "Describe the image."


@dataclass(frozen=True)
class Captioned(Defence):
    """Caption and prompt, no image: how safe the model would be if it read the image as text."""

    vlm: Vlm
    max_new_tokens: int = 64

    def shown(self, records: Sequence[Record]) -> list[Record]:
        """Return the records with their images put into words; one without an image stays as it is."""
        captions = self.captions(records)
        return [_told(record, captions[record.id]) if record.id in captions else record for record in records]

    def captions(self, records: Sequence[Record]) -> dict[str, str]:
        """Return the unsteered greedy answer to `REQUEST`, perhaps empty, by the id of each record with an image."""
        images = {record.id: image for record in records if (image := record.image)}
        inputs = [self.vlm.encode(REQUEST, image) for image in images.values()]
        ids, said = list(images), dict.fromkeys(images, "")
        for group in alike(inputs):
            answers = answer_batch(self.vlm, [inputs[k] for k in group], max_new_tokens=self.max_new_tokens)
            said.update((ids[k], answer.text) for k, answer in zip(group, answers, strict=True))
        return said


def _told(record: Record, caption: str) -> Record:
    prompt = f"An image shows this: {caption}\n\n{record.prompt}" if caption else record.prompt
    return replace(record, picture=None, prompt=prompt)
