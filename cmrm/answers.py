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

# A letter chosen in so many words: "B", "B. Paris", "(b)", "The answer is B", "option B". In the last two a
# small letter counts only before a full stop, a bracket or the end: "the answer is a bee" names no letter.
_CHOSEN = re.compile(
    r"^\W*([A-Za-z])(?:[).:,]|\W*$)"
    r"|\(([A-Za-z])\)"
    r"|\b(?i:answer|option|choice)(?i:\s+is)?\s*:?\W*(?:([A-Z])\b(?!')|([a-z])(?=[).:,]|\W*$))"
)
_LAST = re.compile(r"\b([A-Z])\W*$")


def holds_answer(text: str, answers: Iterable[str]) -> bool:
    """Whether `text` holds one of `answers` as whole words, whatever the case; 0 to 20 as words or as digits.

    A single capital letter among the answers is the letter of a choice. If the text names a letter, that letter
    decides; else the other answers, such as the choice's text, are looked for.
    """
    letters, phrases = set(), []
    for answer in answers:
        if re.fullmatch("[A-Z]", answer):
            letters.add(answer)
        else:
            phrases.append(answer)
    if letters and (chosen := _CHOSEN.search(text)):
        return chosen[chosen.lastindex or 0].upper() in letters
    said = _plain(text)
    if any(_holds(said, _plain(phrase)) for phrase in phrases):
        return True
    last = _LAST.search(text)
    return bool(last and last[1] in letters)


def _plain(text: str) -> str:
    """Lower-case words with single spaces, without punctuation; numbers as digits, without commas."""
    words = re.findall(r"\d+(?:[.,]\d+)+|[\w'-]+", text.replace("\u2019", "'").lower())
    return " ".join(_DIGITS.get(word, re.sub(r"(?<=\d),(?=\d)", "", word)) for word in words)


def _holds(said: str, phrase: str) -> bool:
    return bool(phrase) and bool(re.search(rf"(?<!\d\.)\b{re.escape(phrase)}\b(?!\.\d)", said))
