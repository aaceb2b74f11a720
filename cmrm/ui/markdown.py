"""What a model says as safe HTML: bold, italics, lists and code; no links, images or HTML, whatever it says."""

import re
from collections.abc import Sequence
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
_SPACE = re.compile(r"(\s+)")


def render_markdown(text: str, mark: int | None = None) -> Markup:
    """Return the HTML of `text`, with word number `mark` marked."""
    return Markup(_MARKDOWN.render(text, {"mark": mark, "seen": 0}))


def find_parting(texts: Sequence[str], ended: Sequence[bool]) -> int | None:
    """Return the number of the first word in which two texts differ, None for nowhere.

    The last word of a text that has not ended may still grow, so it is left out, and what follows it is not missed.
    """
    first, second = (_words(text)[: None if end else -1] for text, end in zip(texts, ended, strict=True))
    for number, (one, other) in enumerate(zip_longest(first, second)):
        if one != other:
            missing = ended[0] if one is None else ended[1] if other is None else True
            return number if missing else None
    return None


def _words(text: str) -> list[str]:
    leaves = chain.from_iterable(token.children or [token] for token in _MARKDOWN.parse(text))
    return [word for leaf in leaves if leaf.type in _LEAVES for word in leaf.content.split()]


def _render_leaf(_: object, tokens: Sequence[Token], place: int, __: object, env: EnvType) -> str:
    """Return a token's words as HTML, with one marked, and count them."""
    parts = _SPACE.split(tokens[place].content)
    words = [number for number, part in enumerate(parts) if part.strip()]
    counted = dict(enumerate(words, env["seen"]))
    env["seen"] += len(words)
    return getattr(_leaves, tokens[place].type)(parts, counted.get(env["mark"]))


def _make_renderer() -> MarkdownIt:
    made = MarkdownIt("zero", {"html": False, "breaks": True})
    made.enable(["list", "fence", "emphasis", "backticks", "newline", "escape"])
    for name in _LEAVES:
        made.add_render_rule(name, _render_leaf)
    return made


_MARKDOWN = _make_renderer()
