"""What a model says as safe HTML: bold, italics, lists and code; no links, images or HTML, whatever it says."""

import re
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.token import Token
from markdown_it.utils import EnvType
from markupsafe import Markup

_AROUND = {"text": "{}", "code_inline": "<code>{}</code>", "fence": "<pre><code>{}</code></pre>\n"}
_MARKED = '<mark class="parting">{}</mark>'
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
    return [word for leaf in leaves if leaf.type in _AROUND for word in leaf.content.split()]


def _escape(content: str, env: EnvType) -> str:
    """Escape a text, and mark a word as it is counted."""
    parts = _SPACE.split(content)
    for place, part in enumerate(parts):
        parts[place] = escapeHtml(part)
        if part.strip():
            if env["seen"] == env["mark"]:
                parts[place] = _MARKED.format(parts[place])
            env["seen"] += 1
    return "".join(parts)


def _rule(around: str) -> Callable[..., str]:
    def render(_: object, tokens: Sequence[Token], place: int, __: object, env: EnvType) -> str:
        return around.format(_escape(tokens[place].content, env))

    return render


def _make_renderer() -> MarkdownIt:
    made = MarkdownIt("zero", {"html": False, "breaks": True})
    made.enable(["list", "fence", "emphasis", "backticks", "newline", "escape"])
    for name, around in _AROUND.items():
        made.add_render_rule(name, _rule(around))
    return made


_MARKDOWN = _make_renderer()
