"""What a model says as safe HTML: bold, italics, lists and code; no links, images or HTML, whatever it says."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markdown_it.utils import EnvType
from markupsafe import Markup

from ..templates import load_template

_leaves: Any = load_template(Path(__file__).with_name("markdown.html")).module
_LEAVES = ("text", "code_inline", "fence")
"""The tokens with words, each with a template of its name."""
_ALIKE = 0.5  # share of words in common, from which on it helps to see each one that is not
_SPACE = re.compile(r"(\s+)")


def render_markdown(text: str, marked: frozenset[int] = frozenset()) -> Markup:
    """Return the HTML of `text`, with the words of the numbers in `marked` marked."""
    return Markup(_MARKDOWN.render(text, {"marked": marked, "seen": 0}))


def find_differences(texts: Sequence[str], ended: Sequence[bool]) -> tuple[frozenset[int], frozenset[int]]:
    """Return the numbers of the words in which two texts differ.

    That is all of them once both have ended, if the texts are otherwise alike; of texts that have little in common, or
    still grow, it is the first alone, which is where they part.
    """
    first, second = (_words(text) for text in texts)
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    if not all(ended) or matcher.ratio() < _ALIKE:
        place = _find_parting(first, second, ended)
        found = frozenset() if place is None else frozenset([place])
        return found, found
    changes = [change for change in matcher.get_opcodes() if change[0] != "equal"]
    return (
        frozenset(chain.from_iterable(range(start, end) for _, start, end, _, _ in changes)),
        frozenset(chain.from_iterable(range(start, end) for _, _, _, start, end in changes)),
    )


def _find_parting(first: Sequence[str], second: Sequence[str], ended: Sequence[bool]) -> int | None:
    """Return the number of the first word that differs; the last word of a text that has not ended may still grow."""
    first, second = (words[: None if end else -1] for words, end in zip((first, second), ended, strict=True))
    for number, (one, other) in enumerate(zip_longest(first, second)):
        if one != other:
            missing = ended[0] if one is None else ended[1] if other is None else True
            return number if missing else None
    return None


def _words(text: str) -> list[str]:
    leaves = chain.from_iterable(token.children or [token] for token in _MARKDOWN.parse(text))
    return [word for leaf in leaves if leaf.type in _LEAVES for word in leaf.content.split()]


def _render_leaf(_: object, tokens: Sequence[Token], place: int, __: object, env: EnvType) -> str:
    """Return a token's words as HTML, with some marked, and count them."""
    parts = _SPACE.split(tokens[place].content)
    words = [number for number, part in enumerate(parts) if part.strip()]
    marked = {part for number, part in enumerate(words, env["seen"]) if number in env["marked"]}
    env["seen"] += len(words)
    return getattr(_leaves, tokens[place].type)(parts, marked)


def _make_renderer() -> MarkdownIt:
    made = MarkdownIt("zero", {"html": False, "breaks": True})
    made.enable(["list", "fence", "emphasis", "backticks", "newline", "escape"])
    for name in _LEAVES:
        made.add_render_rule(name, _render_leaf)
    return made


_MARKDOWN = _make_renderer()
