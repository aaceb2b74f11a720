"""Anchor sets: lists of short texts, each in a group, that offsets are measured on."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import CmrmError
from ..files import ASSETS

_GROUPED = re.compile(r"([a-z][a-z-]*):\s+(\S.*)")


@dataclass(frozen=True)
class AnchorSet:
    """Named texts; `groups` runs along `texts` and says what each is (harmful, harmless, ...)."""

    name: str
    texts: tuple[str, ...]
    groups: tuple[str, ...]

    @property
    def lines(self) -> str:
        """Return the texts one a line, behind their groups: what `read_anchors` reads.

        Raises:
            CmrmError: a text of several lines.
        """
        for text in self.texts:
            if len(text.splitlines()) > 1:
                raise CmrmError(
                    f"The anchor {text.splitlines()[0][:40]!r} has several lines, but here a line is an anchor; "
                    "leave it out, or use `python -m cmrm extract`."
                )
        pairs = zip(self.groups, self.texts, strict=True)
        return "\n".join(f"{group}: {text}" if group else text for group, text in pairs)

    def only(self, *groups: str) -> "AnchorSet":
        """Return the texts of the given groups, named after them.

        Raises:
            CmrmError: no text is in any of them.
        """
        pairs = [pair for pair in zip(self.texts, self.groups, strict=True) if pair[1] in groups]
        if not pairs:
            raise CmrmError(
                f"The anchor set {self.name!r} has no {' or '.join(groups)} text, only {sorted(set(self.groups))}; "
                "choose from those, or give anchors with these groups."
            )
        return AnchorSet(f"{self.name}:{'+'.join(groups)}", tuple(t for t, _ in pairs), tuple(g for _, g in pairs))


def load_anchors(name: str | Path) -> AnchorSet:
    """Read a file as `read_anchors` does.

    `name` is a path, or the name of a set in `assets/`; ":harmful+harmless" behind it keeps those
    groups alone.

    Raises:
        CmrmError: no such file, or a line that is no anchor, with its number.
    """
    plain, _, groups = str(name).partition(":")
    path = ASSETS / f"{plain}.jsonl" if (ASSETS / f"{plain}.jsonl").is_file() else Path(plain)
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CmrmError(f"The anchor set {str(path)!r} can't be read; give a JSONL or text file.") from error
    whole = read_anchors(content, path.name)
    return whole.only(*groups.split("+")) if groups else whole


def read_anchors(content: str, name: str) -> AnchorSet:
    """Read what a file called `name` holds, and name the set after it.

    A .jsonl file holds objects {"text", "group"}; any other one anchor a line, which may begin with its group:
    "harmless: How do I bake bread?" (one lower-case word).

    Raises:
        CmrmError: no anchor at all, or a line that is none, with its number.
    """
    path = Path(name)
    pairs = [
        _anchor(line.strip(), f"{name}, line {number}", path.suffix == ".jsonl")
        for number, line in enumerate(content.splitlines(), 1)
        if line.strip()
    ]
    if not pairs:
        raise CmrmError(f"The anchor set {name!r} is empty; give at least one text.")
    return AnchorSet(path.stem, tuple(text for text, _ in pairs), tuple(group for _, group in pairs))


def _anchor(line: str, where: str, is_json: bool) -> tuple[str, str]:
    if not is_json:
        grouped = _GROUPED.fullmatch(line)
        return (grouped[2], grouped[1]) if grouped else (line, "")
    try:
        entry = json.loads(line)
        text, group = entry["text"], entry.get("group", "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CmrmError(f'{where} is no anchor; write {{"text": ..., "group": ...}}.') from error
    if not isinstance(text, str) or not text.strip():
        raise CmrmError(f"{where} has no text; write a short request there.")
    if re.search("[\ud800-\udfff]", f"{text}{group}"):
        raise CmrmError(f"{where} holds half a character (a lone surrogate); remove it.")
    return text, str(group)
