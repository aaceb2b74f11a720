"""How far long work has come: a stage by name and its passes; the words for people are the page's and the terminal's."""

from dataclasses import dataclass
from typing import Literal

Stage = Literal[
    "measuring",  # offsets
    "reading",  # the prompt, to explain
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
