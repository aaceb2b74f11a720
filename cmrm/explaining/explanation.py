"""What is found out about why two answers differ: values alone, for the page, the API and the report."""

from dataclasses import dataclass

from ..settings import Method

END = "⟨end⟩"
"""Stands for the token that ends an answer."""

Floats = tuple[float, ...]
Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Gap:
    """States of one decoder layer on the first two principal components of the unsteered anchors.

    `anchors` and `prompt` have points by what the model read: "text only", "image", "blank image" (anchors
    alone) and "steered". `shares` are the components' parts of the variance. `towards` says which means lie
    further apart on each and in its positive direction: "image" (from text) or "harmful" (from harmless).
    `distances` are those of the anchors' mean beside the image to their text-only mean, in all dimensions,
    before and after steering.
    """

    shares: tuple[float, float]
    towards: tuple[str, str]
    anchors: dict[str, Points]
    prompt: dict[str, Points]
    distances: tuple[float, float]


@dataclass(frozen=True)
class Candidate:
    """A token that might come next, and its probability unsteered and steered."""

    text: str
    unsteered: float
    steered: float


@dataclass(frozen=True)
class Parting:
    """Where the answers part: at token `place` (None: nowhere), with the tokens around it from `start` on.

    `candidates` are the likeliest tokens there (at the first token, if the answers are the same), at
    temperature 1; an answer that ends there has the token `END`.
    """

    place: int | None
    start: int
    unsteered: tuple[str, ...]
    steered: tuple[str, ...]
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Explanation:
    """What `explain` measured; lists run along the decoder layers, and all states are of the last prompt token.

    `layers` are the steered ones and `groups` says what each anchor is. `added` is the norm of alpha x the
    offset, and `moved` how far the prompt's state went, with what the layers below carried; both relative to
    the norm of the unsteered state. `cosines` ("unsteered", "steered") are those of the prompt's states to its
    text-only one. `projections` are dot products with the refusal direction of Arditi et al. (arXiv
    2406.11717), the unit vector from the mean of the harmless text-only anchors to that of the harmful:
    of the prompt ("text only", "unsteered", "steered") and of both means ("harmful", "harmless").
    `openings` is the probability that the first token opens a refusal, at each of `alphas`. `alone`: the request had
    no image, and its unsteered state is its text-only one.
    """

    method: Method
    alpha: float
    layers: tuple[int, ...]
    anchors: str
    groups: tuple[str, ...]
    gaps: tuple[Gap, ...]
    added: Floats
    moved: Floats
    cosines: dict[str, Floats]
    projections: dict[str, Floats]
    parting: Parting
    alphas: Floats
    openings: Floats
    alone: bool
