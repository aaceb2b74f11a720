"""What a comparison streams: rows that grow in lockstep, step by step."""

from dataclasses import dataclass

import numpy as np

from ..judging.phrases import Verdict
from ..progress import Progress


@dataclass(frozen=True)
class Row:
    """One row's answer so far, as text and as token ids.

    `seconds` run from the request's start to the row's last token. `fluency` is the mean log-probability
    of the text under the unsteered model, if asked for, once all rows have ended.
    """

    alpha: float
    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    ended: bool = False
    verdict: Verdict | None = None
    fluency: float | None = None
    ids: tuple[int, ...] = ()

    @property
    def tokens_per_second(self) -> float:
        """Return the pace of the row, the prefill included."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Step:
    """All rows after one more token each; row 0 is the unsteered one. `done` marks the last step.

    `progress` says what goes on before the first token, if it takes long.
    """

    rows: tuple[Row, ...]
    done: bool = False
    progress: Progress | None = None


@dataclass(frozen=True)
class Answered:
    """One prompt's greedy answer: token ids without the end, text, and the probability that it opens as a refusal."""

    ids: tuple[int, ...]
    text: str
    opening: float


@dataclass(frozen=True)
class NextToken:
    """What may come next in each row: `probabilities` `(rows, vocabulary)` float32, at temperature 1.

    `states` are the layer outputs at the last prompt token, `(rows, layers, hidden)` float32.
    """

    probabilities: np.ndarray
    states: np.ndarray
