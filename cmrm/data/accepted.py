"""Whether an answer in free text holds one of the accepted answers.

It looks for words, not for meaning: "It is not red." holds "red".
"""

import re
from collections.abc import Iterable

_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS.split())}

# A letter behind such a word as "answer is"; I and small letters, being words, only before punctuation or the end.
_LETTER = r"(?:\s+is|'s)?\b[^\w'.!?]*([A-HJ-Z](?![\w'])|[A-Za-z](?=[).:,;]|\W*$))"
_ANSWER = re.compile(r"(?i:\banswer)" + _LETTER)
_START = re.compile(r"^\W*([A-Za-z])(?:[).:,](?!\w)|\W*$)")
_OPTION = re.compile(r"(?i:\b(?:option|choice))" + _LETTER + r"|(?<!\w)\(([A-Za-z])\)")
_LAST = re.compile(r"\b([A-Z])\W*$")


def holds_answer(text: str, answers: Iterable[str]) -> bool:
    """Whether `text` holds one of `answers` as whole words, whatever the case; 0 to 20 as words or as digits.

    A single capital letter among the answers is the letter of a choice. If the text names a letter ("B. Paris",
    "The answer is b.", "option B", "(B)"), that letter decides; else the other answers, such as the choice's text, do.
    """
    listed = list(answers)
    letters = {answer for answer in listed if re.fullmatch("[A-Z]", answer)}
    if letters and (chosen := _chosen(text)):
        return chosen in letters
    words = _plain(text)
    if any(_holds(words, _plain(answer)) for answer in listed if answer not in letters):
        return True
    last = _LAST.search(text)
    return bool(last and last[1] in letters)


def _chosen(text: str) -> str | None:
    """The letter of the last "the answer is", else the one the text starts with, else the first one named."""
    for found in (*reversed(list(_ANSWER.finditer(text))), _START.search(text), _OPTION.search(text)):
        if found:
            return found[found.lastindex or 0].upper()
    return None


def _plain(text: str) -> str:
    """Lower-case words with single spaces, without punctuation; numbers as digits, without commas."""
    words = re.findall(r"\d+(?:[.,]\d+)+|[\w'-]+", text.replace("\u2019", "'").lower())
    return " ".join(_DIGITS.get(word, re.sub(r"(?<=\d),(?=\d)", "", word)) for word in words)


def _holds(words: str, phrase: str) -> bool:
    return bool(phrase) and bool(re.search(rf"(?<!\w)(?<!\d\.){re.escape(phrase)}(?!\w|\.\d)", words))
