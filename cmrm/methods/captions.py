"""Images as the model itself describes them: the ceiling of a caption in place of the image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..data.records import Record
from ..engines.base import Engine
from ..steering.vectors import Prompt
from .defence import Defence

REQUEST = "Describe the image."


@dataclass(frozen=True)
class Captioned(Defence):
    """Caption and prompt, no image: how safe the model would be if it read the image as text."""

    engine: Engine
    max_new_tokens: int = 64

    def show(self, records: Sequence[Record]) -> list[Record]:
        """Return the records with their images put into words; one without an image stays as it is."""
        captions = self.captions(records)
        return [_put_into_words(record, captions[record.id]) if record.id in captions else record for record in records]

    def captions(self, records: Sequence[Record]) -> dict[str, str]:
        """Return the unsteered greedy answer to `REQUEST`, perhaps empty, by the id of each record with an image."""
        asked = {record.id: Prompt(REQUEST, image) for record in records if (image := record.image)}
        answers = self.engine.answer_batch(list(asked.values()), max_new_tokens=self.max_new_tokens)
        return {name: answer.text for name, answer in zip(asked, answers, strict=True)}


def _put_into_words(record: Record, caption: str) -> Record:
    prompt = f"An image shows this: {caption}\n\n{record.prompt}" if caption else record.prompt
    return replace(record, picture=None, prompt=prompt)
