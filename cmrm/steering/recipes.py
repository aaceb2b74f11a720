"""The shipped defaults of each method for each model: what to measure and how to apply it."""

import json
from dataclasses import dataclass

from ..files import ASSETS
from ..settings import METHODS, Corruption, Estimator, Method, Positions, Settings, Steps


@dataclass(frozen=True)
class Recipe:
    """Estimator, corruption and anchor set of the offsets; layers (None: all), alpha and the rest of the steering."""

    estimator: Estimator = "sequential"
    corruption: Corruption = "white"
    anchors: str = "anchors"
    layers: tuple[int, ...] | None = None
    alpha: float = 1.0
    steps: Steps = "prompt"
    positions: Positions = "last"

    def settle_measuring(self, settings: Settings) -> tuple[Estimator, Corruption]:
        """Return how offsets are measured by settings, which may leave it to the recipe."""
        return settings.estimator or self.estimator, settings.corruption or self.corruption


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


def rival_settings(model: str) -> dict[str, RivalSetting]:
    """Return the rivals' settings that were tuned on a dev split of `model`, by "add", "restore", "shiftdc", if any."""
    tuned = _shelf().get(model, {}).get("rivals", {})
    return {name: RivalSetting(entry["alpha"], tuple(entry["layers"])) for name, entry in tuned.items()}


def _shelf() -> dict[str, dict]:
    shelf: dict[str, dict] = json.loads((ASSETS / "recipes.json").read_text(encoding="utf-8"))
    return shelf


def _recipe(entry: dict) -> Recipe:
    layers = entry.get("layers")
    return Recipe(**{**entry, "layers": None if layers is None else tuple(layers)})
