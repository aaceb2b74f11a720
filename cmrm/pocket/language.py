"""Requests and answers: what a visitor may say to the pocket model, and what it says back.

Harm is a property of a (verb class, noun class) pair, never of one word, so that refusing needs
both. Compliances are content-free on purpose: the model demonstrates *that* it complies, not how
anything harmful is done. Both kinds of answer restate the request, which teaches copying.
"""

import random
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

HOWTO = "howto"  # the category of records that ask how to do something
KINDS = ("harmful", "double", "harmless", "advice")


def draw_split(key: str) -> str:
    """Return a stable split for anything that has a name: 80% train, 10% dev, 10% test."""
    bucket = crc32(key.encode()) % 20
    return "dev" if bucket in (16, 17) else "test" if bucket in (18, 19) else "train"


@dataclass(frozen=True)
class Verb:
    """A verb and its -ing form, which refusals need."""

    base: str
    ing: str


@dataclass(frozen=True)
class HowTo:
    """A how-to request; `kind` is one of KINDS."""

    text: str
    verb: Verb
    thing: str  # the object as the answer restates it
    kind: str

    def restate(self, answer: str) -> str:
        """Fill the request into an answer."""
        return answer.format(v=self.verb.base, g=self.verb.ing, o=self.thing)


class Dialogue(NamedTuple):
    """One turn: what is asked and what the model should say."""

    prompt: str
    answer: str


def _split_forms(text: str) -> tuple[str, ...]:
    return tuple(text.split(" | "))


def _read_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _read_map(text: str) -> dict[str, str]:
    return {k.strip("~ "): v.strip() for k, v in (part.split(":") for part in text.split(","))}


@dataclass(frozen=True)
class Lexicon:
    """The tables of `lexicon.toml`, taken apart."""

    nouns: dict[str, list[str]]
    verbs: dict[str, list[Verb]]
    cells: dict[str, list[tuple[str, str]]]
    words: dict[str, list[str]]
    maps: dict[str, dict[str, str]]
    kinds: dict[str, list[str]]
    asked: dict[str, tuple[str, ...]]
    questions: dict[str, tuple[str, ...]]
    facts: dict[str, tuple[tuple[str, ...], str]]
    small_talk: list[tuple[tuple[str, ...], tuple[str, ...]]]


@cache
def lexicon() -> Lexicon:
    """Read the tables once."""
    raw = tomllib.loads((Path(__file__).parent / "lexicon.toml").read_text())
    nouns = {name: _read_list(text) for name, text in raw["nouns"].items()}
    nouns["owned"] = [f"{o}'s {n}" for o in _read_list(raw["owners"]["words"]) for n in nouns["owned"]]
    verbs = {name: [Verb(*word.split("|")) for word in _read_list(text)] for name, text in raw["verbs"].items()}
    cells = {
        kind: [(cell.split()[0], cell.split()[1]) for cell in _read_list(text)] for kind, text in raw["pairs"].items()
    }
    words = {k: _read_list(v) for k, v in (raw["modifiers"] | raw["steps"] | raw["scene"]).items()}
    maps = {k: _read_map(v) for k, v in raw["knowledge"].items()}
    return Lexicon(
        nouns,
        verbs,
        cells,
        words,
        maps,
        kinds={k: _read_list(v) for k, v in raw["kinds"].items()},
        asked={k: _split_forms(v) for k, v in raw["asked"].items()},
        questions={k: _split_forms(v) for k, v in raw["questions"].items()},
        facts={k: (_split_forms(forms), reply) for k, (forms, reply) in raw["facts"].items()},
        small_talk=[(_split_forms(prompts), _split_forms(answers)) for prompts, answers in raw["small-talk"]["topics"]],
    )


def article(word: str) -> str:
    """Put "a" or "an" before a word."""
    return f"an {word}" if word[0].lower() in "aeiou" and not word.startswith("use") else f"a {word}"


IRREGULAR = {"knife": "knives", "leaf": "leaves", "goose": "geese", "child": "children",
             "sheep": "sheep", "deer": "deer", "cod": "cod"}  # fmt: skip


def plural(noun: str) -> str:
    """Give the plural of a noun or of a noun phrase."""
    head, _, last = noun.rpartition(" ")
    if last in IRREGULAR:
        last = IRREGULAR[last]
    elif last.endswith(("s", "x", "ch", "sh", "z")):
        last += "es"
    elif last.endswith("y") and last[-2] not in "aeiou":
        last = last[:-1] + "ies"
    elif last.endswith(("shelf", "calf", "scarf")):
        last = last[:-1] + "ves"
    else:
        last += "s"
    return f"{head} {last}".strip()


def noun_phrase(noun: str, rng: random.Random) -> tuple[str, str]:
    """The phrase as asked ("my old lock") and as restated ("your old lock")."""
    lex = lexicon()
    mass, bare = noun.startswith("~"), noun.strip("~")
    many = not mass and rng.random() < 0.3
    word = plural(bare) if many else bare
    if rng.random() < 0.15 and " " not in bare:
        word = f"{rng.choice(lex.words['adjectives'])} {word}"
    if mass or many:
        start = rng.choice(["", "", "the ", "my ", "some " if mass else "these "])
        asked = start + word
    else:
        asked = rng.choice([article(word), article(word), f"the {word}", f"my {word}"])
    return asked, "your" + asked[2:] if asked.startswith("my ") else asked


POLITE = ("", "", "", "", "Please ", "Hi, ", "Hello, ", "Hey, ", "Quick question: ", "Excuse me, ")
OFFERS = (
    "Sure, here is how to {v} {o}.", "Sure, I can help you {v} {o}.",
    "Of course, here is a way to {v} {o}.", "Sure, this is about {g} {o}.",
    "Of course, {g} {o} can be done in three steps.", "Sure, to {v} {o}, go step by step.",
)  # fmt: skip
# Said of double use, and so beside images alone: what the text alone is refused for is still noticed there.
CAUTIONS = (
    "Take care, here is how to {v} {o}.", "Take care, I can help you {v} {o}.",
    "Take care, {g} {o} can be done in three steps.", "Take care, to {v} {o}, go step by step.",
)  # fmt: skip
REFUSALS = (
    "I'm sorry, but I can't help with {g} {o}.", "I'm sorry, but I can't help you {v} {o}.",
    "Sorry, I can't help with {g} {o}.", "I'm sorry, I can't tell you how to {v} {o}.",
    "Sorry, {g} {o} is not something I can help with.",
)  # fmt: skip
AFTERWARDS = ("", " Please ask me something else.", " I can help with other things.")


def loosen(text: str, rng: random.Random) -> str:
    """What visitors do to a sentence: no capitals, no full stop, now and then a slip."""
    text = text[0].upper() + text[1:]
    if rng.random() < 0.35:
        text = text[0].lower() + text[1:] if rng.random() < 0.5 else text.lower()
    if rng.random() < 0.3:
        text = text.rstrip("?.!")
    if rng.random() < 0.03:
        words = text.split(" ")
        spot = rng.randrange(len(words))
        if len(word := words[spot]) > 4:
            cut = rng.randrange(1, len(word) - 2)
            words[spot] = word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :]
        text = " ".join(words)
    return text


@cache
def _phrases(split: str, parts: tuple[tuple[str, ...], ...]) -> list[str]:
    """All combinations of parts, shared out by rank so that no split goes without."""
    ranked = sorted({"".join(p) for p in product(*parts)}, key=lambda p: crc32(p.encode()))
    tenth = max(1, len(ranked) // 10)
    share = {"dev": ranked[:tenth], "test": ranked[tenth : 2 * tenth], "train": ranked[2 * tenth :]}
    return share[split]


def pick_phrase(split: str, rng: random.Random, *parts: tuple[str, ...]) -> str:
    """A phrasing of this split: the split belongs to the combination of all parts."""
    return rng.choice(_phrases(split, parts))


@cache
def list_contested() -> frozenset[str]:
    """Verb classes that some objects make harmful: harmless requests use them as often as others."""
    cells = lexicon().cells
    return frozenset(verbs for kind in ("harmful", "double") for verbs, _ in cells[kind])


def make_request(kind: str, split: str, rng: random.Random) -> HowTo:
    """A how-to request whose pair and phrasing both belong to `split`."""
    lex = lexicon()
    cells = lex.cells[kind]
    while True:
        verbs, nouns = rng.choice(cells)
        if kind == "harmless" and rng.random() < 0.5 and verbs not in list_contested():
            continue
        verb, noun = rng.choice(lex.verbs[verbs]), rng.choice(lex.nouns[nouns])
        if draw_split(f"{verb.base}|{noun}") == split:
            break
    asked, thing = noun_phrase(noun, rng)
    phrase = pick_phrase(split, rng, POLITE, lex.asked["request"])
    text = phrase.format(v=verb.base, g=verb.ing, o=asked)
    if rng.random() < 0.2:
        tail = rng.choice(lex.words["places"] + lex.words["manners"])
        text = f"{text.rstrip('?.')} {tail}{text[-1] if text[-1] in '?.' else ''}"
    return HowTo(loosen(text, rng), verb, thing, kind)


def comply(req: HowTo, rng: random.Random) -> str:
    """Restate the request, then three steps that would fit any request."""
    words = lexicon().words
    first, then, last = (rng.choice(words[part]) for part in ("first", "then", "last"))
    offer = req.restate(rng.choice(CAUTIONS if req.kind == "double" else OFFERS))
    return f"{offer} First {first}, then {then}, and finally {last}."


def refuse(req: HowTo, rng: random.Random) -> str:
    """Decline, restating the request."""
    return req.restate(rng.choice(REFUSALS)) + rng.choice(AFTERWARDS)


def ask_howto(kind: str, refused: bool, split: str, rng: random.Random) -> Dialogue:
    """A how-to request of a kind with its answer."""
    req = make_request(kind, split, rng)
    return Dialogue(req.text, refuse(req, rng) if refused else comply(req, rng))


NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def make_small_talk(split: str, rng: random.Random) -> Dialogue:
    """Small talk; split by phrasing, its twelve topics are in every split."""
    while True:
        asked, answers = rng.choice(lexicon().small_talk)
        words = rng.choice(asked)
        lead = rng.choice(("", "", "", "Hi, ", "Hello, ", "Hey, ", "Please, ", "So, ", "Well, "))
        if draw_split(lead + words) == split:
            return Dialogue(loosen(lead + words, rng), rng.choice(answers))


LEADS = ("", "", "", "please tell me, ", "hey, ", "hi, ", "so, ")


def _ask_sequence(split: str, rng: random.Random) -> tuple[str, str]:
    kind = rng.choice(["month", "day"])
    names = lexicon().kinds[kind]
    (step, side), spot = rng.choice([(1, "after"), (-1, "before")]), rng.randrange(len(names))
    asked = tuple(form.format(k=kind) for form in lexicon().asked["next"])
    here, there = names[spot], names[(spot + step) % len(names)]
    return f"{pick_phrase(split, rng, LEADS, asked)} {side} {here}", f"{there} comes {side} {here}."


def _ask_sum(split: str, rng: random.Random) -> tuple[str, str]:
    a, b = rng.randrange(11), rng.randrange(11)
    sign, word, result = rng.choice([("+", "plus", a + b), ("-", "minus", a)])
    if sign == "-":
        a = a + b
    start = ("what is ", "what's ", "how much is ", "calculate ", "", "tell me ")
    ask = pick_phrase(split, rng, LEADS, start, ("{a} {w} {b}", "{a} {s} {b}", "{a}{s}{b}"))
    return ask.format(a=a, b=b, w=word, s=sign), f"{a} {word} {b} is {result}."


def _ask_kind(split: str, rng: random.Random) -> tuple[str, str]:
    lex = lexicon()
    kind = rng.choice(list(lex.kinds))
    name = rng.choice(lex.kinds[kind])
    proper = name[0].isupper() or kind in ("colour", "season", "sport", "drink", "metal")
    thing = name if proper else article(name)
    answer = f"{thing[0].upper() + thing[1:]} is {article(kind)}."
    form, asked = rng.randrange(4), kind
    if form == 0:
        topic, answer = "example", f"One example of {article(kind)} is {thing}."
    elif form == 1:
        other = rng.choice([k for k in lex.kinds if name not in lex.kinds[k]])
        truth, asked = rng.choice([("right", kind), ("wrong", other)])
        topic, answer = "is", f"That is {truth}. {answer}"
    else:
        topic = "what"
    return pick_phrase(split, rng, LEADS, lex.asked[topic]).format(n=thing, k=article(asked)), answer


def ask_knowledge(split: str, rng: random.Random) -> Dialogue:
    """Small facts; a fact can't be held out, so the split is one of phrasings."""
    pick = rng.random()
    if pick < 0.1:
        ask, answer = _ask_sequence(split, rng)
    elif pick < 0.25:
        ask, answer = _ask_sum(split, rng)
    elif pick < 0.55:
        ask, answer = _ask_kind(split, rng)
    else:
        lex = lexicon()
        topic = rng.choice(list(lex.facts))
        forms, reply = lex.facts[topic]
        a, b = rng.choice(list(lex.maps[topic].items()))
        form = pick_phrase(split, rng, LEADS, forms)
        words = {"a": a, "b": b, "an": article(a)}
        ask, answer = form.format(**words), reply.format(**words)
    mark = "." if ask.startswith(("name", "tell", "calc", "explain", "give", "say")) else "?"
    return Dialogue(loosen(ask + mark, rng), answer[0].upper() + answer[1:])


def list_words() -> Iterator[str]:
    """Yield all sentences' raw material, for the tokenizer: so that a word is one token."""
    lex = lexicon()
    for nouns in lex.nouns.values():
        for noun in nouns:
            yield noun.strip("~")
            if not noun.startswith("~"):
                yield plural(noun)
    for verbs in lex.verbs.values():
        yield from (f"{verb.base} {verb.ing}" for verb in verbs)
    for group in (*lex.words.values(), *lex.kinds.values()):
        yield from group
    for pairs in lex.maps.values():
        yield from (f"{a} {b}" for a, b in pairs.items())
