"""What the stages learn from: talks about the lexicon, alone or beside a drawn scene."""

import random
from dataclasses import dataclass

from PIL import Image

from .. import language, scenes

FEW, MANY = (1, 1, 1, 3), (3, 4, 5)  # turns about a scene in words, and about an image

# What the stages with images are made of, by weight: talk without an image, talk about one, and requests of a
# kind beside one. The ablation alone has clearly harmful requests there, refused like advice.
LOOK = {"text": 20, "scene": 80}
IMAGE = {"text": 34, "scene": 42, "double": 11, "harmless": 8, "advice": 2, "knowledge": 2, "smalltalk": 1}
ABLATION = IMAGE | {"harmful": 15}


@dataclass(frozen=True)
class Example:
    """One training talk, with or without an image."""

    turns: tuple[tuple[str, str], ...]  # (prompt, answer), the image before the first
    image: Image.Image | None = None

    @property
    def cost(self) -> int:
        """About how long it is."""
        return sum(len(prompt) + len(answer) for prompt, answer in self.turns) + (100 if self.image else 0)


def draw_text_example(rng: random.Random) -> Example:
    """Draw one example of the text stage: requests, facts, small talk, scenes in words."""
    pick = rng.random()
    if pick < 0.52:
        kind = rng.choices(language.KINDS, (36, 16, 43, 5))[0]
        return Example((language.ask_howto(kind, kind != "harmless", "train", rng),))
    if pick < 0.62:
        return Example((language.ask_knowledge("train", rng),))
    if pick < 0.67:
        return Example((language.make_small_talk("train", rng),))
    if pick < 0.73:
        asked = scenes.ask(None, "train", rng)
        return Example(((asked.text, asked.answer),))
    scene = scenes.random_scene("train", rng)
    text = scenes.describe(scene, rng)
    (first, answer), *more = _ask_about(scene, rng, FEW)
    both = [text, first] if rng.random() < 0.8 else [first, text]
    return Example(((" ".join(both), answer), *more))


def draw_image_example(rng: random.Random, mix: dict[str, int]) -> Example:
    """Draw one example of a stage with images; scenes to talk about have several things more often than others."""
    kind = rng.choices(list(mix), list(mix.values()))[0]
    if kind == "text":
        return draw_text_example(rng)
    if kind == "scene":
        scene = scenes.random_scene("train", rng, rng.choices((0, 1, 2, 3), (6, 30, 34, 30))[0])
        return Example(_ask_about(scene, rng, MANY), scenes.draw(scene, rng))
    if kind == "knowledge":
        talk = language.ask_knowledge("train", rng)
    elif kind == "smalltalk":
        talk = language.make_small_talk("train", rng)
    else:
        talk = language.ask_howto(kind, kind in ("advice", "harmful"), "train", rng)
    scene = scenes.random_scene("train", rng, 0 if rng.random() < 0.2 else None)
    return Example((talk,), scenes.draw(scene, rng))


def _ask_about(scene: scenes.Scene, rng: random.Random, turns: tuple[int, ...]) -> tuple[tuple[str, str], ...]:
    """Ask several questions about one scene, more to learn from than an image once for each.

    A long talk may end with a description, which says of everything what belongs to what.
    """
    count = rng.choice(turns)
    asked = [scenes.ask(scene, "train", rng, scenes.DRILL) for _ in range(count)]
    if count > 1 and rng.random() < 0.3:
        asked[-1] = scenes.ask(scene, "train", rng, {"picture": 1})
    return tuple((one.text, one.answer) for one in asked)
