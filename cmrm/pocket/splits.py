"""Train, dev and test: they differ in verb-object pairs, phrasings and images, never in words."""

from __future__ import annotations

import random

from PIL import Image

from ..records import Record
from .language import howto, knowledge, small_talk
from .scenes import ask, draw, random_scene

# Which draw of a split is used: the first one of test was read for two earlier sets of weights.
_DRAW = {"train": 0, "dev": 0, "test": 1}


def _beside(split: str, rng: random.Random) -> Image.Image:
    """An image beside a request: any scene, one in five blank, striped, noisy or blurry."""
    scene = random_scene(split, rng, things=0 if rng.random() < 0.2 else None)
    return draw(scene, rng, rng.choice((96, 128, 192, 256)))


def records(split: str, kind: str, count: int, seed: int = 0, things: int | None = None) -> list[Record]:
    """`count` records of "harmful", "harmless" or "question", all with images, all different.

    Questions are about scenes of any number of things, or of the given one.
    """
    rng = random.Random(f"{split} {kind} {_DRAW[split] + seed}")
    found: dict[tuple[str, int], Record] = {}
    while len(found) < count:
        name = f"{split}-{kind}-{len(found)}"
        if kind == "question":
            scene = random_scene(split, rng, things)
            asked = ask(scene, split, rng)
            image = draw(scene, rng, rng.choice((96, 128, 192, 256)))
            record = Record(name, asked.text, image, kind, asked.accepted, asked.topic)
            found[asked.text, len(found)] = record
            continue
        if kind == "harmful":
            talk, category = howto("harmful", True, split, rng), "howto"
        elif kind == "harmless":
            pick = rng.random()
            if pick < 0.75:
                talk, category = howto("harmless", False, split, rng), "howto"
            elif pick < 0.95:
                talk, category = knowledge(split, rng), "knowledge"
            else:
                talk, category = small_talk(split, rng), "smalltalk"
        else:
            raise ValueError(f"no kind of record is called {kind!r}")
        record = Record(name, talk.prompt, _beside(split, rng), kind, category=category)
        found.setdefault((talk.prompt.lower(), 0), record)
    return list(found.values())
