"""Why the two answers differ: the states' way from text to image and back, and the token where the answers part."""

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np

from ..engines.base import Engine, Prepared
from ..errors import CmrmError
from ..images import digest_image
from ..judging.openings import opening_probability, refusal_openings
from ..lru import Lru
from ..progress import Progress, Stage
from ..settings import MAX_ALPHA, Settings
from ..steering.anchors import AnchorSet
from ..steering.extraction import anchors_digest, read_states
from ..steering.offsets import Offsets
from ..steering.vectors import Prompt, Steered
from .explanation import END, Candidate, Explanation, Floats, Gap, Parting, Points

CURVE = tuple(MAX_ALPHA * k / 8 for k in range(9))
ANCHORS_EACH = 24  # of the two groups
TOP = 5
_BEFORE, _BEHIND = 12, 24


@dataclass(frozen=True)
class Comparing:
    """One comparison to explain: what was asked, how it was steered (`settings` with nothing left open), and by what.

    `store` keeps the states of anchors for other explanations.
    """

    engine: Engine
    prompt: Prompt
    settings: Settings
    offsets: Offsets
    store: Lru[np.ndarray]

    @property
    def alpha(self) -> float:
        """Return the strength."""
        assert self.settings.alpha is not None
        return self.settings.alpha

    @property
    def layers(self) -> tuple[int, ...]:
        """Return the steered layers."""
        return self.settings.layers or tuple(range(self.engine.identity.layers))

    def steered(self, *alphas: float) -> Steered:
        """Return what steers a pass over the prompt, by one alpha or one a row."""
        alpha = alphas if len(alphas) > 1 else alphas[0]
        return Steered(self.offsets, alpha, self.layers, steps=self.settings.steps or "prompt")

    def prepare(self, rows: int) -> Prepared:
        """Return the prompt, ready to be read by so many rows."""
        return self.engine.prepare(self.prompt, replace(self.settings, max_new_tokens=1), rows)


def check_explainable(settings: Settings, anchors: AnchorSet) -> AnchorSet:
    """Return the anchors that a run is explained by: as many harmful as harmless ones, spread over the set.

    Raises:
        CmrmError: a run that can't be explained, or anchors without groups.
    """
    if settings.positions != "last":
        raise CmrmError("Only runs steered at the last position are explained; choose positions 'last' and run again.")
    groups = [anchors.only(name).texts for name in ("harmful", "harmless")]
    count = min(ANCHORS_EACH, *map(len, groups))
    chosen = [texts[k * len(texts) // count] for texts in groups for k in range(count)]
    return AnchorSet(anchors.name, tuple(chosen), ("harmful",) * count + ("harmless",) * count)


def explain(
    run: Comparing, anchors: AnchorSet, answers: Sequence[Sequence[int]]
) -> Generator[Progress, None, Explanation]:
    """Explain one comparison, with progress before each pass; `answers` are the token ids of both answers.

    Anchors (of `check_explainable`) are read beside the image (blank, if there is none), and steered by the vectors of
    this run.

    Raises:
        CmrmError: a tokenizer by which refusals can't be told, or memory that ran out.
    """
    refusals = refusal_openings(run.engine.tokenizer)
    # 1. The prompt at many strengths: its states, and how likely a refusal is.
    yield Progress("strengths")
    alphas = tuple(sorted({*CURVE, run.alpha}))
    at = run.prepare(len(alphas)).next_token(run.steered(*alphas))
    # 2. Where the answers part, and what was likely there.
    yield Progress("parting")
    parting = _find_parting(run, *answers)
    prompt_states = {
        "text only": read_states(run.engine, [Prompt(run.prompt.text)])[0],
        "image": at.states[0],
        "steered": at.states[alphas.index(run.alpha)],
    }
    # 3. Where anchors lie: alone, beside the image, beside a blank one, and steered.
    anchor_states = yield from _read_anchors(run, anchors)
    # 4. What all that says, layer by layer.
    harmful = np.array(anchors.groups) == "harmful"
    return Explanation(
        method=run.settings.method,
        alpha=run.alpha,
        layers=run.layers,
        anchors=anchors.name,
        groups=anchors.groups,
        gaps=compute_gaps(anchor_states, prompt_states, harmful),
        added=_added(run, at.states[0]),
        moved=_floats(_norm(prompt_states["steered"] - at.states[0]) / _norm(at.states[0])),
        cosines={
            name: _floats(cosine(prompt_states[key], prompt_states["text only"]))
            for name, key in (("unsteered", "image"), ("steered", "steered"))
        },
        projections=project(anchor_states["text only"], harmful, prompt_states),
        parting=parting,
        alphas=alphas,
        openings=_floats(opening_probability(at.probabilities, refusals)),
        alone=run.prompt.image is None,
    )


def _added(run: Comparing, states: np.ndarray) -> Floats:
    """Return the norm of what each layer adds, relative to `states` `(layers, hidden)`."""
    steered = np.isin(np.arange(len(states)), run.layers)
    return _floats(steered * run.alpha * _norm(run.offsets.values) / _norm(states))


def _find_parting(run: Comparing, unsteered: Sequence[int], steered: Sequence[int]) -> Parting:
    """Find the first token that differs, and what was likely there."""
    length = min(len(unsteered), len(steered))
    place = next((k for k in range(length) if unsteered[k] != steered[k]), length)
    same = place == len(unsteered) == len(steered)
    common = [] if same else list(unsteered[:place])
    start = max(0, len(common) - _BEFORE)
    end = len(common) + _BEHIND
    rows = [_spell(run.engine, ids, start, end, None if same else place) for ids in (unsteered, steered)]
    likely = run.prepare(2).next_token(run.steered(0.0, run.alpha), common).probabilities
    top = np.unique(np.argsort(-likely, axis=1, kind="stable")[:, :TOP])
    ranked = sorted(top.tolist(), key=lambda token: -likely[:, token].max())
    candidates = [Candidate(_spell_next(run.engine, common, token), *map(float, likely[:, token])) for token in ranked]
    return Parting(None if same else place, start, rows[0], rows[1], tuple(candidates))


def _spell(engine: Engine, ids: Sequence[int], start: int, end: int, place: int | None) -> tuple[str, ...]:
    """Return each token's own text; an answer that was over at `place` shows its end."""
    texts = [_decode(engine, ids[:k]) for k in range(start, min(end, len(ids)) + 1)]
    pieces = [after[len(before) :] for before, after in pairwise(texts)]
    return tuple([*pieces, END] if len(ids) == place else pieces)


def _spell_next(engine: Engine, common: list[int], token: int) -> str:
    """Return the text of a token behind others."""
    if token in engine.end_tokens:
        return END
    text = _decode(engine, [*common, token])[len(_decode(engine, common)) :]
    return text or str(engine.tokenizer.convert_ids_to_tokens(token))


def _decode(engine: Engine, ids: Sequence[int]) -> str:
    decoded = engine.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
    return decoded.rstrip("\ufffd")  # half-made characters


def _read_anchors(run: Comparing, anchors: AnchorSet) -> Generator[Progress, None, dict[str, np.ndarray]]:
    """Return the anchors' states `(anchors, layers, hidden)` by what they were read beside: stored, or read now."""
    assert run.settings.corruption is not None
    blank = run.engine.blank(run.settings.corruption)
    beside = run.prompt.image or blank
    readings: list[tuple[str, Stage, Prompt, Steered | None]] = [
        ("text only", "anchors: text only", Prompt(""), None),
        ("image", "anchors: image", Prompt("", beside), None),
        ("blank image", "anchors: blank image", Prompt("", blank), None),
        ("steered", "anchors: steered", Prompt("", beside), run.steered(run.alpha)),
    ]
    found: dict[str, np.ndarray] = {}
    for name, stage, shown, steered in readings:
        key = _store_key(run, anchors, shown, steered)
        states = run.store.get(key)
        if states is None:
            prompts = [replace(shown, text=text) for text in anchors.texts]
            tell = partial(Progress, stage, total=len(prompts))
            yield tell(0)
            states = yield from run.engine.reading(prompts).states(steered, tell)
            run.store.keep(key, states, states.nbytes)
        found[name] = states
    return found


def _store_key(run: Comparing, anchors: AnchorSet, shown: Prompt, steered: Steered | None) -> str:
    digest = hashlib.sha256(anchors_digest(anchors.texts).encode())
    if shown.image is not None:
        digest.update(digest_image(shown.image))
    if steered is not None:
        digest.update(f"{steered.alpha} {steered.layers}".encode() + run.offsets.values.tobytes())
    return digest.hexdigest()


def compute_gaps(anchors: dict[str, np.ndarray], prompt: dict[str, np.ndarray], harmful: np.ndarray) -> tuple[Gap, ...]:
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

    def place(states: np.ndarray) -> Points:
        return tuple((float(x), float(y)) for x, y in (states - centre) @ axes.T)

    def distance(name: str) -> float:
        return float(np.linalg.norm(anchors[name].mean(axis=0) - text.mean(axis=0)))

    return Gap(
        shares=(float(parts[0]), float(parts[1])),
        towards=(towards[0], towards[1]),
        anchors={name: place(states) for name, states in anchors.items()},
        prompt={name: place(states) for name, states in prompt.items()},
        distances=(distance("image"), distance("steered")),
    )


def project(texts: np.ndarray, harmful: np.ndarray, prompt: dict[str, np.ndarray]) -> dict[str, Floats]:
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
    return (a * b).sum(axis=-1) / np.maximum(_norm(a) * _norm(b), 1e-30)


def _norm(rows: np.ndarray) -> np.ndarray:
    return np.linalg.norm(rows, axis=-1)


def _floats(values: np.ndarray) -> Floats:
    return tuple(float(value) for value in values)
