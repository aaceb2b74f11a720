"""Anchor sets: lists of short texts, each in a group, that offsets are measured on."""

import json
from dataclasses import dataclass
from pathlib import Path

from .errors import CmrmError
from .paths import ASSETS


@dataclass(frozen=True)
class AnchorSet:
    """Named texts; `groups` runs along `texts` and says what each is (harmful, harmless, ...)."""

    name: str
    texts: tuple[str, ...]
    groups: tuple[str, ...]

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
    """Read a JSONL file of {"text", "group"}, or a text file of one anchor a line.

    `name` is a path, or the name of a set in `assets/`; ":harmful+harmless" behind it keeps those
    groups alone.

    Raises:
        CmrmError: no such file, or a line that is no anchor, with its number.
    """
    plain, _, groups = str(name).partition(":")
    path = ASSETS / f"{plain}.jsonl" if (ASSETS / f"{plain}.jsonl").is_file() else Path(plain)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CmrmError(f"The anchor set {str(path)!r} can't be read; give a JSONL or text file.") from error
    pairs = [
        _anchor(line, f"{path.name}, line {number}", path.suffix == ".jsonl")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not pairs:
        raise CmrmError(f"The anchor set {str(path)!r} is empty; give at least one text.")
    whole = AnchorSet(path.stem, tuple(text for text, _ in pairs), tuple(group for _, group in pairs))
    return whole.only(*groups.split("+")) if groups else whole


def _anchor(line: str, where: str, is_json: bool) -> tuple[str, str]:
    if not is_json:
        return line.strip(), ""
    try:
        entry = json.loads(line)
        text, group = entry["text"], entry.get("group", "")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CmrmError(f'{where} is no anchor; write {{"text": ..., "group": ...}}.') from error
    if not isinstance(text, str) or not text.strip():
        raise CmrmError(f"{where} has no text; write a short request there.")
    return text, str(group)
