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


@dataclass(frozen=True)
class RivalSetting:
    """How much of a rival is added, and where."""

    alpha: float
    layers: tuple[int, ...]


def recipes_for(model: str) -> dict[Method, Recipe]:
    """Return each method's recipe for `model`: its own, tuned on a dev split, or the general one."""
    shelf = _shelf()
    entry = shelf.get(model, shelf["*"])
    return {method: _recipe(entry[method]) for method in METHODS}


def rival_settings(model: str, layers: int) -> dict[str, RivalSetting]:
    """Return alpha and layers of the rivals: as tuned on a dev split of `model`, or as in their papers.

    "add" and "restore" use the refusal direction, at alpha 1: added at one layer in the middle, restored at all of
    them; "shiftdc" is at alpha 1 in layers 10 to 31 of 32, or the same part.
    """
    tuned = _shelf().get(model, {}).get("rivals")
    if tuned is not None:
        return {name: RivalSetting(entry["alpha"], tuple(entry["layers"])) for name, entry in tuned.items()}
    return {
        "add": RivalSetting(1.0, (layers // 2,)),
        "restore": RivalSetting(1.0, tuple(range(layers))),
        "shiftdc": RivalSetting(1.0, tuple(range(round(layers * 10 / 32), layers))),
    }


def _shelf() -> dict[str, dict]:
    shelf: dict[str, dict] = json.loads((ASSETS / "recipes.json").read_text(encoding="utf-8"))
    return shelf


def _recipe(entry: dict) -> Recipe:
    layers = entry.get("layers")
    return Recipe(**{**entry, "layers": None if layers is None else tuple(layers)})
