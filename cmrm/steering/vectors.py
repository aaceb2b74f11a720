"""A steering as data, which can cross to any engine: vectors by layer, how they act, how much and where."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from ..model.identity import Identity
from ..progress import Told
from ..settings import Corruption, Positions, Settings, Steps

Mode = Literal["add", "reach", "project"]


@dataclass(frozen=True, eq=False)
class Vectors:
    """`values`, `(layers, hidden)` float32, and what they do to a state h, times alpha:

    add      h + alpha v
    reach    h + alpha (v - h): towards a state; what is recorded there is the gap v - h
    project  h + alpha (level - h.v) v, with v a unit vector and `levels` `(layers,)` where the projection is to be
    """

    values: np.ndarray
    mode: Mode = "add"
    levels: np.ndarray | None = None


@dataclass(frozen=True)
class Steered:
    """What is added to the rows of a batch: one of `vectors` for all or one a row, one of `alpha` likewise, and where.

    One vector to reach that stands for all rows is for their mean: each of them is shifted by its gap.
    """

    vectors: Vectors | Sequence[Vectors]
    alpha: float | tuple[float, ...] = 1.0
    layers: tuple[int, ...] | None = None
    positions: Positions = "last"
    steps: Steps = "prompt"

    @classmethod
    def by(cls, settings: Settings, vectors: "Vectors | Sequence[Vectors]", *alphas: float) -> "Steered":
        """Return what is added where settled settings say, and as much, or (`alphas`) as much to each row."""
        alpha = alphas or settings.alpha
        assert alpha is not None, "settings are settled"
        return cls(vectors, alpha, settings.layers, settings.positions or "last", settings.steps or "prompt")

    @staticmethod
    def alphas(steered: "Steered | None", rows: int) -> tuple[float, ...]:
        """Return the alpha of each of a request's rows; none is steered where nothing is added."""
        found = (0.0,) * rows if steered is None else steered.alpha
        assert isinstance(found, tuple), "one alpha a row"
        return found

    def pick(self, rows: Sequence[int]) -> "Steered":
        """Return what is added to some of the rows, in their order."""
        vectors, alpha = self.vectors, self.alpha
        return replace(
            self,
            vectors=vectors if isinstance(vectors, Vectors) else [vectors[k] for k in rows],
            alpha=alpha if isinstance(alpha, (int, float)) else tuple(alpha[k] for k in rows),
        )


@dataclass(frozen=True)
class Prompt:
    """What a model is shown in one user turn: a text, perhaps beside a picture."""

    text: str
    image: Image.Image | None = None


class Reading(Protocol):
    """Prompts that are ready to be read in `passes` forward passes."""

    @property
    def passes(self) -> int:
        """How many forward passes one reading takes."""

    def states(self, steered: Steered | None, tell: Callable[[int], Told]) -> Generator[Told, None, np.ndarray]:
        """Return the layer outputs at each last prompt token, float32 `(prompts, layers, hidden)`, as steering left it.

        Yields what `tell` makes of the number of prompts read, after each pass and perhaps while one lasts; close it to
        stop. Of rows that reach for a state it is the gap that was left before.

        Raises:
            CmrmError: memory that ran out, or a layer that puts out something else than one state a position.
        """


class Reader(Protocol):
    """Who reads the states of prompts: any engine."""

    @property
    def identity(self) -> Identity:
        """What the model is."""

    def blank(self, corruption: Corruption) -> Image.Image:
        """Return the meaningless image of the method, in the size the model looks at."""

    def reading(self, prompts: Sequence[Prompt]) -> Reading:
        """Make prompts ready to be read.

        Raises:
            CmrmError: no prompts, or one that can't be laid out.
        """
