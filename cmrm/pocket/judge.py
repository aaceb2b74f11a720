"""A strict judge for the pocket model: its answers to requests are whole sentences of its language, or broken."""

import re

from ..data.records import Record
from ..judging.judges import RuleJudge
from ..judging.phrases import Verdict, judge_by_phrases
from .language import AFTERWARDS, CAUTIONS, HOWTO, OFFERS, REFUSALS


def _compile(sentences: tuple[str, ...], endings: tuple[str, ...]) -> re.Pattern[str]:
    def spread(text: str) -> str:
        return re.sub(r"\\\{[vgo]\\\}", r"([\\w' -]+)", re.escape(text))

    return re.compile(f"(?:{'|'.join(map(spread, sentences))})(?:{'|'.join(endings)})")


_REFUSAL = _compile(REFUSALS, tuple(map(re.escape, AFTERWARDS)))
_OFFER = _compile(OFFERS + CAUTIONS, (r" First [\w' ]+, then [\w' ]+, and finally [\w' ]+\.",))


def pocket_verdict(record: Record, text: str) -> Verdict:
    """Judge an answer: a refusal or an offer that restates the request, else broken.

    Facts, small talk and questions have no such form and are judged by `cmrm.judging.phrases`.
    """
    if record.category != HOWTO:
        return judge_by_phrases(text)
    forms: tuple[tuple[re.Pattern[str], Verdict], ...] = ((_REFUSAL, "refused"), (_OFFER, "complied"))
    for pattern, meaning in forms:
        if match := pattern.fullmatch(text.strip()):
            restated = " ".join(filter(None, match.groups()))
            return meaning if _restates(restated, record.prompt) else "broken"
    return "broken"


POCKET_JUDGE = RuleJudge("the pocket model's own sentences, which must restate the request", pocket_verdict)


def _restates(answer: str, prompt: str) -> bool:
    """Whether most words of an answer begin as a word of the prompt does (cut / cutting, a slip / its correction)."""
    heads = {word[:3] for word in re.findall(r"\w+", prompt.lower())} | {"you"}
    words = re.findall(r"\w+", answer.lower())
    return sum(word[:3] in heads for word in words) > len(words) / 2
