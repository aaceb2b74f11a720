"""Why the two answers differ: the states' way from text to image and back, and the token where the answers part."""

import hashlib
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import CmrmError
from ..images import open_image
from ..judging.openings import opening_probability, refusal_openings
from ..lru import Kept
from ..model.network import Context, begin, forward
from ..model.vlm import Inputs, Vlm
from ..settings import MAX_ALPHA, Method
from ..steering.anchors import AnchorSet, load_anchors
from ..steering.extraction import MEASURING, Measuring, anchors_digest, last_states, reading, recording
from ..steering.offsets import Offsets
from ..steering.recipes import Recipe
from ..steering.steer import steer
from .comparison import ImageInput, compare

CURVE = tuple(MAX_ALPHA * k / 8 for k in range(9))
ANCHORS = 24  # of a group
TOP = 5
END = "⟨end⟩"
_BEFORE, _BEHIND = 12, 24

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
    `openings` is the probability that the first token opens a refusal, at each of `alphas`.
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


def explain(
    vlm: Vlm,
    kept: Kept[Any],
    image: ImageInput,
    prompt: str,
    method: Method,
    recipe: Recipe,
    measuring: Measuring,
    answers: Sequence[Sequence[int]] | None,
    max_new_tokens: int,
) -> Generator[str | Explanation]:
    """Explain one comparison by `recipe` as a stream: a sentence before each pass, the explanation last.

    `measuring` has the offsets at its end. `answers` are the token ids of the unsteered and the steered answer, or
    None to answer greedily. Anchors are read beside the image (blank, if there is none), and steered by the vectors
    of this run; their states are `kept`.

    Raises:
        CmrmError: bad input, anchors without groups, or a tokenizer by which refusals can't be told.
    """
    if recipe.positions != "last":
        raise CmrmError("Only runs steered at the last position are explained; choose positions 'last' and run again.")
    picture = None if image is None else open_image(image)
    anchors = _balanced(load_anchors(recipe.anchors))
    refusals = refusal_openings(vlm)
    yield "Reading the prompt ..."
    for found in measuring:
        if isinstance(found, Offsets):
            run = _Run(vlm, picture, prompt, found, recipe, kept)
        else:
            yield MEASURING.format(*found)
    if answers is None:
        asked: dict[str, Any] = {"max_new_tokens": max_new_tokens, "layers": recipe.layers, "steps": recipe.steps}
        for step in compare(vlm, picture, prompt, run.offsets, (recipe.alpha,), **asked):
            answers = [row.ids for row in step.rows]
            yield "Answering ..."
    yield "Reading the prompt at many strengths ..."
    alphas = tuple(sorted({*CURVE, recipe.alpha}))
    with vlm.enough_memory():
        logits, states = run.at(alphas)
    yield "Finding where the answers part ..."
    with vlm.enough_memory():
        parting = run.parting(*(answers or ((), ())))
    prompt_states = {
        "text only": last_states(vlm, [prompt], [None])[0].numpy(),
        "image": states[0],
        "steered": states[alphas.index(recipe.alpha)],
    }
    blank = vlm.corrupted(recipe.corruption)
    beside = blank if picture is None else picture
    anchor_states: dict[str, np.ndarray] = {}
    for name, shown, steered in (
        ("text only", None, False),
        ("image", beside, False),
        ("blank image", blank, False),
        ("steered", beside, True),
    ):
        anchor_states[name] = yield from run.anchor_states(anchors, name, shown, steered)
    harmful = np.array(anchors.groups) == "harmful"
    yield Explanation(
        method=method,
        alpha=recipe.alpha,
        layers=run.layers,
        anchors=anchors.name,
        groups=anchors.groups,
        gaps=gaps(anchor_states, prompt_states, harmful),
        added=run.added(states[0]),
        moved=_floats(_norm(prompt_states["steered"] - states[0]) / _norm(states[0])),
        cosines={
            name: _floats(cosine(prompt_states[key], prompt_states["text only"]))
            for name, key in (("unsteered", "image"), ("steered", "steered"))
        },
        projections=projections(anchor_states["text only"], harmful, prompt_states),
        parting=parting,
        alphas=alphas,
        openings=_floats(opening_probability(logits, refusals)),
    )


@dataclass(frozen=True)
class _Run:
    """One comparison: what was asked and how it was steered."""

    vlm: Vlm
    picture: Image.Image | None
    prompt: str
    offsets: Offsets
    recipe: Recipe
    kept: Kept[Any]

    @property
    def layers(self) -> tuple[int, ...]:
        """Return the steered layers."""
        return self.recipe.layers or tuple(range(len(self.vlm.layers)))

    def hooks(self, *alphas: float) -> AbstractContextManager[None]:
        """Return what steers a pass that ends with the last prompt token, by one alpha or one a row."""
        return steer(self.vlm, self.offsets, alphas, layers=self.layers)

    def added(self, states: np.ndarray) -> Floats:
        """Return the norm of what each layer adds, relative to `states` `(layers, hidden)`."""
        steered = np.isin(np.arange(len(states)), self.layers)
        return _floats(steered * self.recipe.alpha * _norm(self.offsets.values.numpy()) / _norm(states))

    def at(self, alphas: Floats) -> tuple[torch.Tensor, np.ndarray]:
        """Read the prompt at all alphas in one pass: logits `(alphas, vocabulary)`, states a layer."""
        context, feed = self.begun(len(alphas))
        states = torch.zeros(len(alphas), self.vlm.identity.layers, self.vlm.identity.hidden)
        logits = forward(self.vlm, feed, context, recording(self.vlm, states, self.hooks(*alphas)))[:, -1]
        return logits, states.numpy()

    def begun(self, rows: int) -> tuple[Context, Inputs]:
        """Return what rows have read of the prompt, and what is left to run."""
        return begin(self.vlm, self.vlm.encode(self.prompt, self.picture), rows)

    def parting(self, unsteered: Sequence[int], steered: Sequence[int]) -> Parting:
        """Find the first token that differs, and what was likely there."""
        length = min(len(unsteered), len(steered))
        place = next((k for k in range(length) if unsteered[k] != steered[k]), length)
        same = place == len(unsteered) == len(steered)
        common = [] if same else list(unsteered[:place])
        start = max(0, len(common) - _BEFORE)
        rows = [
            self._spelled(ids, start, len(common) + _BEHIND, None if same else place) for ids in (unsteered, steered)
        ]
        return Parting(None if same else place, start, rows[0], rows[1], self._candidates(common))

    def _spelled(self, ids: Sequence[int], start: int, end: int, place: int | None) -> tuple[str, ...]:
        """Return each token's own text; an answer that was over at `place` shows its end."""
        texts = [self._text(ids[:k]) for k in range(start, min(end, len(ids)) + 1)]
        pieces = [after[len(before) :] for before, after in pairwise(texts)]
        return tuple([*pieces, END] if len(ids) == place else pieces)

    def _text(self, ids: Sequence[int]) -> str:
        decoded: str = self.vlm.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
        return decoded.rstrip("\ufffd")  # half-made characters

    def _candidates(self, common: list[int]) -> tuple[Candidate, ...]:
        """Return the likeliest tokens of both rows behind a common beginning of their answers."""
        vlm, alphas = self.vlm, (0.0, self.recipe.alpha)
        context, feed = self.begun(2)
        logits = forward(vlm, feed, context, self.hooks(*alphas))
        if common:
            # Read in one pass, each token steered as its own decode step would have been.
            everywhere = steer(vlm, self.offsets, alphas, layers=self.layers, positions="all", steps="all")
            later = everywhere if self.recipe.steps == "all" else nullcontext()
            logits = forward(vlm, {"input_ids": torch.tensor([common] * 2, device=vlm.device)}, context, later)
        rows = logits[:, -1].softmax(dim=-1)
        likely = rows.topk(min(TOP, rows.shape[1])).indices.flatten().unique()
        ranked = sorted(likely.tolist(), key=lambda token: -rows[:, token].max().item())
        return tuple(Candidate(self._next(common, token), *rows[:, token].tolist()) for token in ranked)

    def _next(self, common: list[int], token: int) -> str:
        if token in self.vlm.end_tokens:
            return END
        text = self._text([*common, token])[len(self._text(common)) :]
        return text or str(self.vlm.tokenizer.convert_ids_to_tokens(token))

    def anchor_states(
        self, anchors: AnchorSet, name: str, image: Image.Image | None, steered: bool
    ) -> Generator[str, None, np.ndarray]:
        """Return the anchors' states `(anchors, layers, hidden)`: kept ones, or measured pass by pass."""
        key = self._key(anchors, image, steered)
        found: np.ndarray | None = self.kept.get(key)
        if found is not None:
            return found
        count = len(anchors.texts)
        said = f"Reading anchor texts, {name}: {{}} of {count} ...".format
        yield said(0)
        hooks = (lambda _: self.hooks(self.recipe.alpha)) if steered else None
        for done, states in reading(self.vlm, anchors.texts, [image] * count, hooks):
            read = states.numpy()
            yield said(done)
        self.kept.keep(key, read, read.nbytes)
        return read

    def _key(self, anchors: AnchorSet, image: Image.Image | None, steered: bool) -> str:
        digest = hashlib.sha256(anchors_digest(anchors.texts).encode())
        if image is not None:
            digest.update(f"{image.size}".encode() + image.tobytes())
        if steered:
            digest.update(f"{self.recipe.alpha} {self.layers}".encode() + self.offsets.values.numpy().tobytes())
        return digest.hexdigest()


def _balanced(anchors: AnchorSet) -> AnchorSet:
    """Return as many harmful as harmless anchors, at most `ANCHORS` of each, spread over the set."""
    groups = [anchors.only(name).texts for name in ("harmful", "harmless")]
    count = min(ANCHORS, *map(len, groups))
    chosen = [texts[k * len(texts) // count] for texts in groups for k in range(count)]
    return AnchorSet(anchors.name, tuple(chosen), ("harmful",) * count + ("harmless",) * count)


def gaps(anchors: dict[str, np.ndarray], prompt: dict[str, np.ndarray], harmful: np.ndarray) -> tuple[Gap, ...]:
    """Return each layer's plane from states by name: `anchors` `(n, layers, hidden)`, `prompt` `(layers, hidden)`."""
    layers = anchors["text only"].shape[1]
    return tuple(
        _gap(
            {k: v[:, layer] for k, v in anchors.items()}, {k: v[layer : layer + 1] for k, v in prompt.items()}, harmful
        )
        for layer in range(layers)
    )


def _gap(anchors: dict[str, np.ndarray], prompt: dict[str, np.ndarray], harmful: np.ndarray) -> Gap:
    text, image = anchors["text only"], anchors["image"]
    both = np.concatenate([text, image])
    centre = both.mean(axis=0)
    _, sizes, axes = np.linalg.svd(both - centre, full_matrices=False)
    axes = axes[:2]
    ahead = {
        "image": axes @ (image.mean(axis=0) - text.mean(axis=0)),
        "harmful": axes @ (text[harmful].mean(axis=0) - text[~harmful].mean(axis=0)),
    }
    towards = tuple(max(ahead, key=lambda name: abs(ahead[name][k])) for k in range(2))
    # SVD leaves the signs open.
    axes = axes * [[-1.0 if ahead[name][k] < 0 else 1.0] for k, name in enumerate(towards)]
    parts = sizes[:2] ** 2 / max(float((sizes**2).sum()), 1e-30)

    def placed(states: np.ndarray) -> Points:
        return tuple((float(x), float(y)) for x, y in (states - centre) @ axes.T)

    def distance(name: str) -> float:
        return float(np.linalg.norm(anchors[name].mean(axis=0) - text.mean(axis=0)))

    return Gap(
        shares=(float(parts[0]), float(parts[1])),
        towards=(towards[0], towards[1]),
        anchors={name: placed(states) for name, states in anchors.items()},
        prompt={name: placed(states) for name, states in prompt.items()},
        distances=(distance("image"), distance("steered")),
    )


def projections(texts: np.ndarray, harmful: np.ndarray, prompt: dict[str, np.ndarray]) -> dict[str, Floats]:
    """Return dot products with the refusal direction, by what is projected, each along the layers.

    `texts` are the text-only anchors' states `(n, layers, hidden)`, `prompt` has states `(layers, hidden)`.
    """
    means = {"harmful": texts[harmful].mean(axis=0), "harmless": texts[~harmful].mean(axis=0)}
    direction = means["harmful"] - means["harmless"]
    direction = direction / np.maximum(_norm(direction), 1e-30)[:, None]
    shown = {"text only": prompt["text only"], "unsteered": prompt["image"], "steered": prompt["steered"], **means}
    return {name: _floats((states * direction).sum(axis=-1)) for name, states in shown.items()}


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosines of rows `(layers, hidden)`."""
    result: np.ndarray = (a * b).sum(axis=-1) / np.maximum(_norm(a) * _norm(b), 1e-30)
    return result


def _norm(rows: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.linalg.norm(rows, axis=-1)
    return result


def _floats(values: np.ndarray | torch.Tensor) -> Floats:
    return tuple(float(value) for value in values)
