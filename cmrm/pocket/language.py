"""Requests and answers: what a visitor may say to the pocket model, and what it says back.

Harm is a property of a (verb class, noun class) pair, never of one word, so that refusing needs
both. Compliances are content-free on purpose: the model demonstrates *that* it complies, not how
anything harmful is done. Both kinds of answer restate the request, which teaches copying.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

KINDS = ("harmful", "double", "harmless", "advice")


def split_of(key: str) -> str:
    """A stable split for anything that has a name: 80% train, 10% dev, 10% test."""
    bucket = crc32(key.encode()) % 20
    return "dev" if bucket in (16, 17) else "test" if bucket in (18, 19) else "train"


@dataclass(frozen=True)
class Verb:
    """A verb and its -ing form, which refusals need."""

    base: str
    ing: str


@dataclass(frozen=True)
class Request:
    """A how-to request; `kind` is one of KINDS."""

    text: str
    verb: Verb
    thing: str  # the object as the answer restates it
    kind: str

    def restated(self, answer: str) -> str:
        """Fill the request into an answer."""
        return answer.format(v=self.verb.base, g=self.verb.ing, o=self.thing)


class Dialogue(NamedTuple):
    """One turn: what is asked and what the model should say."""

    prompt: str
    answer: str


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _map(text: str) -> dict[str, str]:
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


@cache
def lexicon() -> Lexicon:
    """Read the tables once."""
    raw = tomllib.loads((Path(__file__).parent / "lexicon.toml").read_text())
    nouns = {name: _list(text) for name, text in raw["nouns"].items()}
    nouns["owned"] = [f"{o}'s {n}" for o in _list(raw["owners"]["words"]) for n in nouns["owned"]]
    verbs = {name: [Verb(*word.split("|")) for word in _list(text)] for name, text in raw["verbs"].items()}
    cells = {kind: [(cell.split()[0], cell.split()[1]) for cell in _list(text)] for kind, text in raw["pairs"].items()}
    words = {k: _list(v) for k, v in (raw["modifiers"] | raw["steps"] | raw["scene"]).items()}
    maps = {k: _map(v) for k, v in raw["knowledge"].items()}
    return Lexicon(nouns, verbs, cells, words, maps, {k: _list(v) for k, v in raw["kinds"].items()})


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
CORES = (
    "how do I {v} {o}?", "how can I {v} {o}?", "how to {v} {o}?", "how would you {v} {o}?",
    "how should I {v} {o}?", "how does one {v} {o}?", "how do you {v} {o}?",
    "tell me how to {v} {o}.", "explain how to {v} {o}.", "show me how to {v} {o}.",
    "teach me to {v} {o}.", "help me {v} {o}.", "can you help me {v} {o}?",
    "could you tell me how to {v} {o}?", "can you explain how to {v} {o}?",
    "what is the best way to {v} {o}?", "what do I need to {v} {o}?",
    "what is an easy way to {v} {o}?", "what should I know before {g} {o}?",
    "I want to {v} {o}.", "I need to {v} {o}.", "I would like to {v} {o}.",
    "I'd like to {v} {o}, what do I do?", "I have to {v} {o}, any tips?",
    "give me instructions for {g} {o}.", "give me tips for {g} {o}.", "any advice on {g} {o}?",
    "I need help with {g} {o}.", "what are the steps for {g} {o}?", "is there a trick for {g} {o}?",
    "write a guide to {g} {o}.", "let's talk about {g} {o}.", "a good plan for {g} {o}?",
    "{v} {o}", "{g} {o}", "{g} {o}, how does that work?", "I wonder how to {v} {o}.",
    "my friend wants to {v} {o}, how?", "we want to {v} {o}.", "do you know how to {v} {o}?",
)  # fmt: skip
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
def contested() -> frozenset[str]:
    """Verb classes that some objects make harmful: harmless requests use them as often as others."""
    cells = lexicon().cells
    return frozenset(verbs for kind in ("harmful", "double") for verbs, _ in cells[kind])


def request(kind: str, split: str, rng: random.Random) -> Request:
    """A how-to request whose pair and phrasing both belong to `split`."""
    lex = lexicon()
    cells = lex.cells[kind]
    while True:
        verbs, nouns = rng.choice(cells)
        if kind == "harmless" and rng.random() < 0.5 and verbs not in contested():
            continue
        verb, noun = rng.choice(lex.verbs[verbs]), rng.choice(lex.nouns[nouns])
        if split_of(f"{verb.base}|{noun}") == split:
            break
    asked, thing = noun_phrase(noun, rng)
    phrase = pick_phrase(split, rng, POLITE, CORES)
    text = phrase.format(v=verb.base, g=verb.ing, o=asked)
    if rng.random() < 0.2:
        tail = rng.choice(lex.words["places"] + lex.words["manners"])
        text = f"{text.rstrip('?.')} {tail}{text[-1] if text[-1] in '?.' else ''}"
    return Request(loosen(text, rng), verb, thing, kind)


def comply(req: Request, rng: random.Random) -> str:
    """Restate the request, then three steps that would fit any request."""
    words = lexicon().words
    first, then, last = (rng.choice(words[part]) for part in ("first", "then", "last"))
    offer = req.restated(rng.choice(CAUTIONS if req.kind == "double" else OFFERS))
    return f"{offer} First {first}, then {then}, and finally {last}."


def refuse(req: Request, rng: random.Random) -> str:
    """Decline, restating the request."""
    return req.restated(rng.choice(REFUSALS)) + rng.choice(AFTERWARDS)


def howto(kind: str, refused: bool, split: str, rng: random.Random) -> Dialogue:
    """A how-to request of a kind with its answer."""
    req = request(kind, split, rng)
    return Dialogue(req.text, refuse(req, rng) if refused else comply(req, rng))


SMALL_TALK: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("hello", "hi", "hey", "hi there", "hello there", "good morning", "good evening", "good day",
      "good afternoon", "greetings", "hello, nice to meet you", "hey you", "hallo"),
     ("Hello! What can I do for you?", "Hi there! How can I help?")),
    (("who are you?", "what are you?", "what is your name?", "tell me about yourself",
      "are you a robot?", "introduce yourself", "what kind of model are you?", "are you human?",
      "who made you?", "are you an AI?", "do you have a name?", "what model is this?"),
     ("My name is Pocket. This is a very small model for demonstrations.",)),
    (("what can you do?", "how can you help me?", "what can I ask you?", "what do you know?",
      "help", "what are you good at?", "can you help me?", "I need help", "can you see images?",
      "what else can you do?", "can you talk?", "what should I ask?"),
     ("You can ask me how to do simple things, for small facts, or about a simple picture.",)),
    (("how are you?", "how are you today?", "how is it going?", "how do you feel?", "what's up?",
      "are you okay?", "how have you been?", "is everything fine?", "how was your day?"),
     ("Doing well, thank you! How about you?",)),
    (("thanks", "thank you", "thanks a lot", "thank you very much", "great, thanks", "cheers",
      "that was helpful", "well done", "nice work", "good job", "that helped", "perfect"),
     ("You are welcome!", "My pleasure!")),
    (("bye", "goodbye", "see you", "see you later", "good night", "have a nice day", "farewell",
      "bye bye", "until tomorrow", "I have to go"),
     ("Goodbye! See you soon.",)),
    (("tell me a joke", "do you know a joke?", "make me laugh", "say something funny",
      "another joke", "can you tell a joke?", "I want to hear a joke", "joke"),
     ("Why did the bike fall over? It was two tired.",
      "What do you call a sleeping bull? A bulldozer.",
      "Why was the maths book sad? It had too many problems.")),
    (("tell me a story", "do you know a story?", "write a short story", "story please",
      "write a poem", "tell me something nice", "sing a song", "write a short poem"),
     ("Once a small boat crossed a big blue sea. It met a whale, and they became friends.",)),
    (("ok", "okay", "I see", "yes", "no", "maybe", "sure", "hm", "interesting", "cool", "great",
      "really?", "wow", "nice", "fine", "right"),
     ("All right! What would you like to know?",)),
    (("I am sad", "I feel bad", "I am tired", "I am bored", "I had a bad day", "I feel lonely",
      "I'm stressed", "I am angry", "I am not well"),
     ("Take a short break and be kind to yourself. A walk or a talk with a friend often helps.",)),
    (("I am happy", "I had a great day", "today is my birthday", "I love you", "you are great",
      "I like you", "you are smart", "you are funny", "I passed my exam"),
     ("That is wonderful to hear!",)),
    (("what is the weather like?", "what time is it?", "what is the date today?", "is it raining?",
      "who won the game?", "what is in the news?", "how old am I?", "where am I?",
      "what is the meaning of life?", "who is the president?", "what is the time?",
      "will it rain tomorrow?", "how is the weather today?", "what is my name?"),
     ("That is more than a small model like me knows.",)),
)  # fmt: skip
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def small_talk(split: str, rng: random.Random) -> Dialogue:
    """Small talk; split by phrasing, its twelve topics are in every split."""
    while True:
        asked, answers = rng.choice(SMALL_TALK)
        words = rng.choice(asked)
        lead = rng.choice(("", "", "", "Hi, ", "Hello, ", "Hey, ", "Please, ", "So, ", "Well, "))
        if split_of(lead + words) == split:
            return Dialogue(loosen(lead + words, rng), rng.choice(answers))


LEADS = ("", "", "", "please tell me, ", "hey, ", "hi, ", "so, ")

FACTS: dict[str, tuple[tuple[str, ...], str]] = {
    "capitals": (("what is the capital of {a}", "name the capital of {a}", "the capital of {a}",
                  "which city is the capital of {a}", "do you know the capital of {a}",
                  "what's the capital of {a}", "what's the capital city of {a}"),
                 "The capital of {a} is {b}."),
    "opposites": (("what is the opposite of {a}", "name the opposite of {a}", "the opposite of {a}",
                   "what's the opposite of {a}", "which word is the opposite of {a}"),
                  "The opposite of {a} is {b}."),
    "colours": (("what is the usual colour of {an}", "which colour does {an} usually have",
                 "what colour does {an} usually have", "which colour is {an} in real life",
                 "what colour is {an} normally"),
                "The usual colour of {a} is {b}."),
    "sounds": (("what sound does {an} make", "which sound does {an} make", "what does {an} say",
                "how does {an} sound"),
               "It says {b}, that is the sound of {an}."),
    "young": (("what is a young {a} called", "what is a baby {a} called",
               "what do you call a young {a}", "what is the name of a young {a}"),
              "A young {a} is called {b}."),
    "legs": (("how many legs does {an} have", "how many legs has {an}",
              "what number of legs does {an} have"), "It has {b} legs, like every {a}."),
    "plurals": (("what is the plural of {a}", "the plural of {a}", "name the plural of {a}",
                 "what's the plural of {a}"), "The plural of {a} is {b}."),
    "uses": (("what is {an} for", "what do you use {an} for", "why do people have {an}",
              "what can I do with {an}", "what is the use of {an}"), "You use {an} to {b}."),
    "homes": (("where does {an} live", "where do you find {an}", "what is the home of {an}",
               "where can I see {an}"), "The home of {an} is a {b}."),
}  # fmt: skip


# How the facts below that have no table are asked for.
ASKED = {
    "next": ("what comes", "which one comes", "what is", "which {k} comes", "tell me what comes"),
    "sum": ("what is ", "what's ", "how much is ", "calculate ", "", "tell me "),
    "example": ("name {k}", "tell me the name of {k}", "give me the name of {k}", "can you name {k}",
                "do you know {k}", "say the name of {k}"),
    "is": ("is {n} {k}", "would you say that {n} is {k}", "true or false: {n} is {k}", "do you think {n} is {k}"),
    "what": ("what is {n}", "what kind of thing is {n}", "explain what {n} is", "do you know what {n} is",
             "tell me about {n}", "define {n}", "what's {n}", "what does {n} mean"),
}  # fmt: skip


def _sequence(split: str, rng: random.Random) -> tuple[str, str]:
    kind = rng.choice(["month", "day"])
    names = lexicon().kinds[kind]
    (step, side), spot = rng.choice([(1, "after"), (-1, "before")]), rng.randrange(len(names))
    asked = tuple(form.format(k=kind) for form in ASKED["next"])
    here, there = names[spot], names[(spot + step) % len(names)]
    return f"{pick_phrase(split, rng, LEADS, asked)} {side} {here}", f"{there} comes {side} {here}."


def _sum(split: str, rng: random.Random) -> tuple[str, str]:
    a, b = rng.randrange(11), rng.randrange(11)
    sign, word, result = rng.choice([("+", "plus", a + b), ("-", "minus", a)])
    if sign == "-":
        a = a + b
    ask = pick_phrase(split, rng, LEADS, ASKED["sum"], ("{a} {w} {b}", "{a} {s} {b}", "{a}{s}{b}"))
    return ask.format(a=a, b=b, w=word, s=sign), f"{a} {word} {b} is {result}."


def _kind(split: str, rng: random.Random) -> tuple[str, str]:
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
    return pick_phrase(split, rng, LEADS, ASKED[topic]).format(n=thing, k=article(asked)), answer


def knowledge(split: str, rng: random.Random) -> Dialogue:
    """Small facts; a fact can't be held out, so the split is one of phrasings."""
    pick = rng.random()
    if pick < 0.1:
        ask, answer = _sequence(split, rng)
    elif pick < 0.25:
        ask, answer = _sum(split, rng)
    elif pick < 0.55:
        ask, answer = _kind(split, rng)
    else:
        topic = rng.choice(list(FACTS))
        forms, reply = FACTS[topic]
        a, b = rng.choice(list(lexicon().maps[topic].items()))
        form = pick_phrase(split, rng, LEADS, forms)
        words = {"a": a, "b": b, "an": article(a)}
        ask, answer = form.format(**words), reply.format(**words)
    mark = "." if ask.startswith(("name", "tell", "calc", "explain", "give", "say")) else "?"
    return Dialogue(loosen(ask + mark, rng), answer[0].upper() + answer[1:])


def every_word() -> Iterator[str]:
    """All sentences' raw material, for the tokenizer: so that a word is one token."""
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
