"""The shipped defaults of each method for each model: what to measure and how to apply it."""

import json
from dataclasses import dataclass

from .options import METHODS, Corruption, Estimator, Method, Steps
from .paths import ASSETS


@dataclass(frozen=True)
class Recipe:
    """Estimator, corruption and anchor set of the offsets; layers (None: all), alpha and steps of the steering."""

    estimator: Estimator = "sequential"
    corruption: Corruption = "white"
    anchors: str = "anchors"
    layers: tuple[int, ...] | None = None
    alpha: float = 1.0
    steps: Steps = "prompt"


def recipes_for(model: str) -> dict[Method, Recipe]:
    """Return each method's recipe for `model`: its own, tuned on a dev split, or the general one."""
    shelf = json.loads((ASSETS / "recipes.json").read_text(encoding="utf-8"))
    entry = shelf.get(model, shelf["*"])
    return {method: _recipe(entry[method]) for method in METHODS}


def _recipe(entry: dict) -> Recipe:
    layers = entry.get("layers")
    return Recipe(**{**entry, "layers": None if layers is None else tuple(layers)})
