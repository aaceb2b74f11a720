"""Scenes: a few drawn things on a background, as a picture, as a sentence, and asked about.

One scene has two faces, `draw` and `describe`, so that reading comprehension in the text stage
and looking in the image stage are one skill. A question about what is not there (also: no picture
at all, or a blank one) always gets the same plain answer, which keeps "nothing to be seen" from
becoming a state of refusing.
"""

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .language import NUMBERS, article, draw_split, lexicon, loosen, pick_phrase, plural

RGB = {
    "red": (214, 32, 38), "green": (34, 150, 60), "blue": (36, 74, 214), "yellow": (246, 222, 40),
    "orange": (246, 132, 24), "purple": (128, 40, 168), "pink": (250, 150, 196),
    "brown": (122, 74, 34), "black": (18, 18, 20), "white": (250, 250, 250), "grey": (136, 138, 142),
}  # fmt: skip
CENTRES = {
    "on the left": (0.18, 0.5), "on the right": (0.82, 0.5), "at the top": (0.5, 0.18),
    "at the bottom": (0.5, 0.82), "in the middle": (0.5, 0.5),
}  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """One drawn thing: what, in which colour, where, how big."""

    name: str
    colour: str
    position: str
    large: bool = False

    @property
    def phrase(self) -> str:
        """The thing with its article, size and colour."""
        return article(f"{'large ' if self.large else ''}{self.colour} {self.name}")


@dataclass(frozen=True)
class Scene:
    """`colour` is the background's; a blurry one (photo-like) has none of its own."""

    things: tuple[Thing, ...]
    colour: str
    texture: str = "plain"


@dataclass(frozen=True)
class Question:
    """A question, the answer in the model's words, and what an answer must hold to be right."""

    text: str
    answer: str
    accepted: tuple[str, ...]
    topic: str


def _pick_colour(rng: random.Random) -> str:
    return rng.choice(lexicon().words["colours"])


def random_scene(split: str, rng: random.Random, things: int | None = None) -> Scene:
    """A scene of this split; `things=0` is blank, striped, noisy, or a blur like a photograph."""
    words = lexicon().words
    while True:
        count = rng.choices((0, 1, 2, 3), (10, 60, 20, 10))[0] if things is None else things
        texture = rng.choices(words["textures"], (60, 12, 12, 8, 8))[0]
        back = "white" if rng.random() < 0.4 else _pick_colour(rng)
        free = [c for c in words["colours"] if c != back]
        places = rng.sample(words["positions"], count)
        twins = rng.random() < 0.2
        name = rng.choice(words["shapes" if rng.random() < 0.55 else "things"])
        found: list[Thing] = []
        for place in places:
            large = count < 3 and rng.random() < 0.3
            found.append(Thing(name, rng.choice(free), place, large))
            if not twins:
                used = {thing.name for thing in found}
                pool = words["shapes" if rng.random() < 0.55 else "things"]
                name = rng.choice([n for n in pool if n not in used])
        found.sort(key=lambda thing: words["positions"].index(thing.position))
        scene = Scene(tuple(found), back, texture)
        if draw_split(repr((scene, rng.random() if count < 1 else 0))) == split:
            return scene


NOTHING = ("There is nothing to be seen.", ("nothing",))


def describe(scene: Scene, rng: random.Random | None = None) -> str:
    """The scene as text; with `rng` in free wording, without as the model itself says it."""
    things = list(scene.things)
    if rng:
        rng.shuffle(things)
    parts = [f"{thing.phrase} {thing.position}" for thing in things]
    start = rng.choice(["There is", "I see", "In the picture there is", "We see"]) if rng else "There is"
    seen = f"{start} {', '.join(parts[:-1])}{' and ' if parts[1:] else ''}{parts[-1]}." if parts else ""
    return f"{seen or NOTHING[0]} {describe_background(scene)}"


def describe_background(scene: Scene) -> str:
    """The sentence about the background."""
    if scene.texture == "blurry":
        return "The background is blurry."
    texture = "" if scene.texture == "plain" else f" and {scene.texture}"
    return f"The background is {scene.colour}{texture}."


IN = ("", "", " in the picture", " in the image", " in this picture", " here", " in the photo")
LEAD = ("", "", "", "please tell me, ", "tell me, ", "look: ", "hi, ")
WEIGHTS = {"colour": 22, "where": 18, "place": 14, "what": 10, "count": 8, "total": 6, "exists": 10,
           "background": 8, "describe": 5, "picture": 5}  # fmt: skip
# Finding a thing by its name or colour among others is slow to learn, so training asks for it more.
DRILL = WEIGHTS | {"colour": 34, "where": 30, "what": 16, "exists": 14, "total": 2, "background": 3, "describe": 1}


def ask(scene: Scene | None, split: str, rng: random.Random, topics: dict[str, int] = WEIGHTS) -> Question:
    """A question about a scene, its topic drawn by weight; None (no picture) shows nothing to ask about."""
    words = lexicon().words
    things = scene.things if scene else ()
    topic = rng.choices(list(topics), list(topics.values()))[0]
    absent = rng.random() < 0.12 or not things
    accepted: tuple[str, ...]
    names = [t.name for t in things]
    single = [t for t in things if names.count(t.name) == 1]
    if topic in ("colour", "where") and not single:
        absent = True
    others = [n for n in words["shapes"] + words["things"] if n not in names]
    thing = None if absent else rng.choice(single or things)
    name = thing.name if thing else rng.choice(others)
    gone = f"There is no {name} to be seen."
    answer, accepted = gone, (f"no {name}",)
    values = {"n": name, "ns": plural(name)}
    if topic == "colour" and thing:
        answer, accepted = f"The {name} is {thing.colour}.", (thing.colour,)
    elif topic == "where" and thing:
        answer, accepted = f"The {name} is {thing.position}.", (thing.position,)
    elif topic == "place":
        place = thing.position if thing else rng.choice(words["positions"])
        thing = next((t for t in things if t.position == place), None)
        values = {"p": place}
        answer, accepted = f"There is nothing {place}.", ("nothing",)
        if thing:
            answer, accepted = f"There is {thing.phrase} {place}.", (thing.name,)
    elif topic == "what":
        colour = thing.colour if thing else _pick_colour(rng)
        hits = [t for t in things if t.colour == colour]
        values = {"c": colour}
        answer, accepted = f"There is nothing {colour} to be seen.", (f"nothing {colour}",)
        if hits:
            answer = f"The {hits[0].name} {hits[0].position} is {colour}."
            accepted = tuple(t.name for t in hits)
    elif topic == "count" and thing:
        answer, accepted = _answer_count(names.count(name), name)
    elif topic == "total":
        answer, accepted = _answer_count(len(things), "thing") if things else NOTHING
    elif topic == "exists":
        answer, accepted = "No, " + gone[0].lower() + gone[1:], (f"no {name}",)
        if thing:
            answer, accepted = f"Yes, there is {thing.phrase} {thing.position}.", ("yes",)
    elif topic == "background":
        answer, accepted = "There is no background to be seen.", ("no background",)
        if scene:
            answer = describe_background(scene)
            accepted = ("blurry",) if scene.texture == "blurry" else (scene.colour,)
    elif topic in ("describe", "picture"):
        answer, accepted = NOTHING
        if scene:
            answer = describe(scene)
            accepted = tuple(f"{t.colour} {t.name}" for t in things) or ("nothing",)
    places = IN[2:] if topic == "describe" else ("",) if topic == "picture" else IN
    form = pick_phrase(split, rng, LEAD, lexicon().questions[topic], places)
    text = form.format(**values)
    mark = "." if text.startswith(("describe", "count", "find", "explain")) else "?"
    return Question(loosen(text + mark, rng), answer, accepted, topic)


def _answer_count(number: int, noun: str) -> tuple[str, tuple[str, ...]]:
    some = f"{NUMBERS[number]} {noun if number == 1 else plural(noun)}"
    return f"There {'is' if number == 1 else 'are'} {some}.", (some,)


def _stamp(pen: ImageDraw.ImageDraw, thing: Thing, x: float, y: float, r: float) -> None:
    """One thing in its colour; what isn't in its colour is dark, so that colour stays a fact."""
    fill = RGB[thing.colour]
    dark = tuple(int(c * 0.45) for c in fill) if thing.colour != "black" else (90, 90, 90)

    def box(a: float, b: float, c: float, d: float) -> tuple[float, float, float, float]:
        return (x + a * r, y + b * r, x + c * r, y + d * r)

    def poly(*points: tuple[float, float], shade: tuple[int, ...] = fill) -> None:
        pen.polygon([(x + a * r, y + b * r) for a, b in points], fill=shade)

    match thing.name:
        case "circle":
            pen.ellipse(box(-0.9, -0.9, 0.9, 0.9), fill=fill)
        case "square":
            pen.rectangle(box(-0.8, -0.8, 0.8, 0.8), fill=fill)
        case "ring":
            pen.ellipse(box(-0.95, -0.95, 0.95, 0.95), outline=fill, width=max(2, int(r * 0.38)))
        case "heart":
            pen.ellipse(box(-0.95, -0.85, 0.05, 0.15), fill=fill)
            pen.ellipse(box(-0.05, -0.85, 0.95, 0.15), fill=fill)
            poly((-0.9, -0.12), (0.9, -0.12), (0, 0.95))
        case "house":
            poly((-0.75, -0.1), (0.75, -0.1), (0.75, 0.95), (-0.75, 0.95))
            poly((-1, -0.1), (0, -0.95), (1, -0.1), shade=dark)
            pen.rectangle(box(-0.2, 0.35, 0.2, 0.95), fill=dark)
        case "tree":
            pen.rectangle(box(-0.16, 0.2, 0.16, 1), fill=dark)
            pen.ellipse(box(-0.75, -1, 0.75, 0.45), fill=fill)
        case "sun":
            for i in range(8):
                a = math.pi * i / 4
                pen.line([(x, y), (x + r * math.cos(a), y + r * math.sin(a))], fill, max(2, int(r / 6)))
            pen.ellipse(box(-0.55, -0.55, 0.55, 0.55), fill=fill)
        case "car":
            poly((-1, 0), (-0.5, 0), (-0.3, -0.5), (0.4, -0.5), (0.6, 0), (1, 0.05), (1, 0.5), (-1, 0.5))
            pen.ellipse(box(-0.75, 0.25, -0.25, 0.75), fill=dark)
            pen.ellipse(box(0.25, 0.25, 0.75, 0.75), fill=dark)
        case "boat":
            poly((-1, 0.3), (1, 0.3), (0.6, 0.85), (-0.6, 0.85))
            poly((0.05, -1), (0.05, 0.2), (0.8, 0.2))
            pen.line([(x, y - r), (x, y + 0.3 * r)], dark, max(2, int(r / 8)))
        case "fish":
            pen.ellipse(box(-1, -0.5, 0.5, 0.5), fill=fill)
            poly((0.35, 0), (1, -0.55), (1, 0.55))
            pen.ellipse(box(-0.7, -0.2, -0.5, 0), fill=dark)
        case "cat":
            pen.ellipse(box(-0.85, -0.6, 0.85, 0.95), fill=fill)
            poly((-0.85, -1), (-0.15, -0.5), (-0.75, 0))
            poly((0.85, -1), (0.15, -0.5), (0.75, 0))
            for side in (-1, 1):
                pen.ellipse(box(side * 0.35 - 0.14, -0.1, side * 0.35 + 0.14, 0.2), fill=dark)
            poly((-0.14, 0.35), (0.14, 0.35), (0, 0.55), shade=dark)
        case "flower":
            pen.line([(x, y), (x, y + r)], dark, max(2, int(r / 6)))
            for i in range(5):
                a, q = 2 * math.pi * i / 5 - math.pi / 2, 0.42
                dx, dy = 0.45 * math.cos(a), 0.45 * math.sin(a) - 0.2
                pen.ellipse(box(dx - q / 1.4, dy - q / 1.4, dx + q / 1.4, dy + q / 1.4), fill=fill)
            pen.ellipse(box(-0.2, -0.4, 0.2, 0), fill=dark)
        case "moon":
            big = [(math.cos(a / 12), math.sin(a / 12)) for a in range(14, 62)]
            inner = [(0.45 + 0.8 * a, 0.8 * b) for a, b in reversed(big)]
            poly(*[(a * 0.95, b * 0.95) for a, b in big], *inner)
        case "cloud":
            for a, b, q in ((-0.5, 0.15, 0.45), (0, -0.15, 0.55), (0.5, 0.15, 0.45)):
                pen.ellipse(box(a - q, b - q, a + q, b + q), fill=fill)
            pen.rectangle(box(-0.5, 0.1, 0.5, 0.6), fill=fill)
        case "mushroom":
            pen.rectangle(box(-0.22, 0, 0.22, 0.95), fill=dark)
            pen.chord(box(-0.95, -0.85, 0.95, 0.95), 180, 360, fill=fill)
        case "cup":
            poly((-0.7, -0.7), (0.45, -0.7), (0.3, 0.8), (-0.55, 0.8))
            pen.ellipse(box(0.2, -0.45, 0.95, 0.35), outline=fill, width=max(2, int(r * 0.18)))
        case "triangle":
            poly((0, -1), (0.95, 0.85), (-0.95, 0.85))
        case "diamond":
            poly((0, -1), (0.75, 0), (0, 1), (-0.75, 0))
        case "cross":
            poly((-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3), (0.3, 1), (-0.3, 1), (-0.3, 0.3),
                 (-1, 0.3), (-1, -0.3), (-0.3, -0.3))  # fmt: skip
        case "star":
            angles = [math.pi * i / 5 - math.pi / 2 for i in range(10)]
            tips = zip([r, r * 0.42] * 5, angles, strict=True)
            pen.polygon([(x + q * math.cos(a), y + q * math.sin(a)) for q, a in tips], fill=fill)
        case _:
            raise ValueError(f"nobody can draw {thing.name!r}")


def _blur(size: int, noise: np.random.Generator) -> Image.Image:
    """Soft random colour fields, the nearest thing to a photograph that needs no photograph."""
    total = np.zeros((size, size, 3))
    for cells, weight in ((2, 1.0), (4, 0.6), (9, 0.35)):
        small = Image.fromarray(noise.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += weight * np.asarray(small.resize((size, size), Image.Resampling.BICUBIC), float)
    return Image.fromarray((total / 1.95).clip(0, 255).astype(np.uint8))


def draw(scene: Scene, rng: random.Random, size: int = 128) -> Image.Image:
    """The scene as a picture, a little different every time."""
    noise = np.random.default_rng(rng.getrandbits(32))
    base = (np.array(RGB[scene.colour]) + noise.integers(-5, 6, 3)).clip(0, 255)
    shade = (int(base[0]), int(base[1]), int(base[2]))
    accent = tuple(int(c * 0.8 + (230 if sum(shade) < 380 else 20) * 0.2) for c in shade)
    image = Image.new("RGB", (size, size), shade)
    pen = ImageDraw.Draw(image)
    if scene.texture == "striped":
        step, tilt, start = rng.randrange(14, 24), rng.choice([0, size]), rng.randrange(12)
        for at in range(-size + start, size, step):
            pen.line([(at, 0), (at + tilt, size)], accent, step // 3)
    elif scene.texture == "dotted":
        step = rng.randrange(14, 22)
        for at_x in range(step // 2, size, step):
            for at_y in range(step // 2, size, step):
                pen.ellipse((at_x - 3, at_y - 3, at_x + 3, at_y + 3), fill=accent)
    elif scene.texture == "noisy":
        grain = noise.normal(0, 45, (size, size, 3)) + base
        image = Image.fromarray(grain.clip(0, 255).astype(np.uint8))
    elif scene.texture == "blurry":
        image = _blur(size, noise)
    pen = ImageDraw.Draw(image)
    for thing in scene.things:
        x, y = (c + rng.uniform(-0.02, 0.02) for c in CENTRES[thing.position])
        r = rng.uniform(0.22, 0.25) if thing.large else rng.uniform(0.158, 0.178)
        _stamp(pen, thing, x * size, y * size, r * size)
    if rng.random() < 0.15:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.2)))
    return image
