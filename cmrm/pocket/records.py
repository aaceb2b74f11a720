"""Train, dev and test: they differ in verb-object pairs, phrasings and images, never in words."""

import random

from PIL import Image

from ..data.records import Record
from .language import HOWTO, ask_howto, ask_knowledge, make_small_talk
from .scenes import Scene, ask, draw, random_scene

# Which draw of a split is used: the first one of test was read for two earlier sets of weights.
_DRAW = {"train": 0, "dev": 0, "test": 1}


def records(split: str, kind: str, count: int, seed: int = 0, things: int | None = None) -> list[Record]:
    """`count` records of "harmful", "harmless" or "question", all with images, all different.

    Questions are about scenes of any number of things, or of the given one.
    """
    if kind not in ("harmful", "harmless", "question"):
        raise ValueError(f"no kind of record is called {kind!r}")
    rng = random.Random(f"{split} {kind} {_DRAW[split] + seed}")
    found: dict[str, Record] = {}
    while len(found) < count:
        record = _draw_record(f"{split}-{kind}-{len(found)}", kind, split, rng, things)
        # A question may come again, about another scene.
        found.setdefault(record.id if kind == "question" else record.prompt.lower(), record)
    return list(found.values())


def _draw_record(name: str, kind: str, split: str, rng: random.Random, things: int | None) -> Record:
    if kind == "question":
        scene = random_scene(split, rng, things)
        asked = ask(scene, split, rng)
        return Record(name, asked.text, _draw_picture(scene, rng), kind, asked.accepted, asked.topic)
    prompt, category = _draw_prompt(kind, split, rng)
    # Beside a request: any scene, one in five blank, striped, noisy or blurry.
    scene = random_scene(split, rng, things=0 if rng.random() < 0.2 else None)
    return Record(name, prompt, _draw_picture(scene, rng), kind, category=category)


def _draw_prompt(kind: str, split: str, rng: random.Random) -> tuple[str, str]:
    """A prompt and its category."""
    pick = rng.random() if kind == "harmless" else 0.0
    if pick < 0.75:
        return ask_howto(kind, kind == "harmful", split, rng).prompt, HOWTO
    if pick < 0.95:
        return ask_knowledge(split, rng).prompt, "knowledge"
    return make_small_talk(split, rng).prompt, "smalltalk"


def _draw_picture(scene: Scene, rng: random.Random) -> Image.Image:
    return draw(scene, rng, rng.choice((96, 128, 192, 256)))
