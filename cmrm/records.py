"""One evaluation item: a prompt, perhaps an image, and what counts as a right answer."""

from __future__ import annotations

import re
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Record:
    """A request or a question; `label` says which row of a report it belongs to."""

    id: str
    prompt: str
    image: Image.Image | None
    label: str  # "harmful" | "harmless" | "question"
    answers: tuple[str, ...] = ()
    category: str = ""

    def accepts(self, text: str) -> bool:
        """Whether `text` holds one of the accepted answers as whole words."""
        said = " ".join(re.findall(r"[\w'-]+", text.lower()))
        return any(re.search(rf"\b{re.escape(a.lower())}\b", said) for a in self.answers)
