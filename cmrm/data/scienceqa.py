"""ScienceQA: multiple-choice questions, half of them about a picture."""

from collections.abc import Iterator
from string import ascii_uppercase

from .files import RawRecord
from .image_files import Pictures
from .records import Record

COLUMNS = [{"question", "choices", "answer"}]


def read(raw: RawRecord, pictures: Pictures) -> Iterator[Record]:
    """Yield the question with its choices lettered; the letter and the choice's text are right answers.

    A question that is a text by nature is shown beside a blank picture.
    """
    choices, answer = raw.values.get("choices"), raw.values.get("answer")
    if not isinstance(choices, list) or not isinstance(answer, int) or not 0 <= answer < len(choices) <= 26:
        raise raw.fault("its answer is not the number of one of its choices, counted from 0; mend it.")
    hint = raw.values.get("hint")
    lettered = [f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)]
    prompt = "\n".join([*([str(hint)] if hint else []), raw.text("question"), *lettered, "Answer with one letter."])
    yield Record(
        raw.id,
        prompt,
        pictures.own(raw, raw.values.get("image")) or pictures.given_or_blank,
        "question",
        (ascii_uppercase[answer], str(choices[answer])),
        str(raw.values.get("subject") or ""),
    )
