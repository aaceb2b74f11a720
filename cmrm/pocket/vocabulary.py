"""Which words of a prompt the pocket model never saw."""

import re
from functools import cache
from typing import TYPE_CHECKING

from .language import list_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST = 8
_WORD_LENGTH = 24
_WORD = re.compile(r"[^\W\d_]+")


def unknown_words(prompt: str, tokenizer: "PreTrainedTokenizerBase") -> tuple[str, ...]:
    """Return the first few words that are neither one token nor in the lexicon the model was taught from."""
    found = dict.fromkeys(word[:_WORD_LENGTH] for word in _WORD.findall(prompt) if not _knows(word, tokenizer))
    return tuple(found)[:MOST]


def _knows(word: str, tokenizer: "PreTrainedTokenizerBase") -> bool:
    forms = {word, word.lower(), word.capitalize()}
    return word.lower() in _list_taught_words() or any(
        len(tokenizer.encode(start + form, add_special_tokens=False)) == 1 for form in forms for start in (" ", "")
    )


@cache
def _list_taught_words() -> frozenset[str]:
    return frozenset(word for phrase in list_words() for word in _WORD.findall(phrase.lower()))
