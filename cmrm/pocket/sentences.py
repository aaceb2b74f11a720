"""What the pocket model says to sentences that visitors may type, for a reader to judge."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from ..answering.comparison import compare
from ..model.vlm import Vlm
from .scenes import Scene, Thing, draw

SCENE = Scene((Thing("house", "red", "on the left", large=True), Thing("star", "yellow", "on the right")), "white")


def everyday(model: str | Path, sentences: Path) -> Iterator[tuple[str, str]]:
    """Answer each sentence of a JSONL file ({"prompt", "image"}) greedily, with the image of `SCENE` or none."""
    vlm = Vlm.load(model)
    image = draw(SCENE, random.Random(0), 256)
    for line in sentences.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        *_, step = compare(vlm, image if entry["image"] else None, entry["prompt"], None, (), max_new_tokens=64)
        yield entry["prompt"], step.rows[0].text
