"""How far long work has come: a stage by name and its passes; the words for people are others'."""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, TypeVar

Passed = TypeVar("Passed")
Told = TypeVar("Told")
"""What progress, or another step of a stream, is turned into for who follows it."""
Result = TypeVar("Result")

Stage = Literal[
    "measuring",  # offsets
    "reading",  # the prompt
    "answering",
    "strengths",  # the prompt at many alphas
    "parting",  # where two answers differ
    "anchors: text only",
    "anchors: image",
    "anchors: blank image",
    "anchors: steered",
    "waiting",  # for a GPU
]


@dataclass(frozen=True)
class Progress:
    """`done` of `total` passes (or texts) of a stage; 0 of 0 where that is not known."""

    stage: Stage
    done: int = 0
    total: int = 0


def relay(stream: Generator[Passed, None, Result], turn: Callable[[Passed], Told]) -> Generator[Told, None, Result]:
    """Pass on what a stream yields, turned into something else, and return what it returns."""
    with closing(stream):
        while True:
            try:
                step = next(stream)
            except StopIteration as end:
                result: Result = end.value
                return result
            yield turn(step)


def finish(stream: Generator[Passed, None, Result], report: Callable[[Passed], None] | None = None) -> Result:
    """Run a stream to its end, each step to `report`, and return what it returns."""
    last = relay(stream, report or (lambda _: None))
    while True:
        try:
            next(last)
        except StopIteration as end:
            result: Result = end.value
            return result
