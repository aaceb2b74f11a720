"""The rows of the table, in groups: ceilings, CMRM and its settings, rivals, controls."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ..data.records import Record
from ..methods.captions import Captioned
from ..methods.ceilings import ReplacedImage
from ..methods.cmrm import DatasetLevel, SampleLevel
from ..methods.controls import OtherPrompt, random_direction, sign_flip
from ..methods.defence import Defence
from ..methods.defence_prompt import DefencePrompt
from ..methods.refusal_direction import Restored, refusal_direction
from ..methods.shiftdc import ShiftDC, paper_layers
from ..settings import ESTIMATORS, Corruption, Estimator, Settings
from ..steering.anchors import AnchorSet, load_anchors
from ..steering.extraction import extract_each, extract_offsets
from ..steering.recipes import Recipe, RivalSetting, rival_settings
from ..steering.vectors import Vectors
from ..workbench import Workbench
from .report import UNSTEERED
from .study import Condition

SEEDS = range(5)
REQUESTS = ("harmful", "harmless")


def make_conditions(
    bench: Workbench, records: Sequence[Record], groups: Sequence[str], alphas: Sequence[float]
) -> list[Condition]:
    """Return the unsteered row and the rows of the groups, each once, in the order of `GROUPS`."""
    parts = _Ingredients(bench, tuple(dict.fromkeys(record.prompt for record in records)), tuple(alphas))
    rows = [Condition(UNSTEERED, "ceilings", Defence())]
    for group, maker in GROUPS.items():
        if group in groups:
            rows += maker(parts)
    unique: dict[str, Condition] = {}
    for row in rows:
        unique.setdefault(row.name, row)
    return list(unique.values())


@dataclass(frozen=True)
class _Ingredients:
    """What several rows are made of, measured when a row first needs it."""

    bench: Workbench
    prompts: tuple[str, ...]
    alphas: tuple[float, ...]

    @cached_property
    def anchors(self) -> AnchorSet:
        """The whole anchor set of the dataset-level offsets, all groups."""
        return load_anchors(self.recipe.anchors.partition(":")[0])

    @cached_property
    def captioned(self) -> Captioned:
        return Captioned(self.bench.engine)

    @cached_property
    def recipe(self) -> Recipe:
        """How the dataset-level offsets were measured, and how they are applied."""
        recipe, made = self.bench.recipes["dataset"], self.bench.settle(Settings())
        return replace(
            recipe, estimator=made.estimator or recipe.estimator, corruption=made.corruption or recipe.corruption
        )

    @cached_property
    def dataset(self) -> Condition:
        """CMRM at the dataset level, as the page has it."""
        return _by_recipe("dataset-level", DatasetLevel(self.bench.offsets), self.recipe)

    @cached_property
    def sample(self) -> Condition:
        """CMRM at the sample level, as the page has it."""
        return _by_recipe("sample-level", self.sample_level, self.bench.recipes["sample"])

    @cached_property
    def sample_level(self) -> SampleLevel:
        recipe = self.bench.recipes["sample"]
        return SampleLevel(self.bench.engine, recipe.estimator, recipe.corruption)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The anchors that the recipe takes."""
        return load_anchors(self.recipe.anchors).texts

    def remeasure(self, name: str, group: str, made: Recipe, texts: Sequence[str] = ()) -> Condition:
        """The dataset-level row with offsets measured by another estimator and corruption, or on other texts."""
        engine, texts = self.bench.engine, texts or self.texts
        offsets = extract_offsets(engine, texts, estimator=made.estimator, corruption=made.corruption)
        return self.steer_by(name, group, offsets)

    def steer_by(self, name: str, group: str, vectors: Vectors) -> Condition:
        """The dataset-level row with other vectors: the same alpha, layers, positions and steps."""
        return replace(self.dataset, name=name, group=group, defence=DatasetLevel(vectors))


def _by_recipe(name: str, defence: Defence, recipe: Recipe) -> Condition:
    return Condition(name, "cmrm", defence, recipe.alpha, recipe.layers, recipe.positions, recipe.steps)


def _ceilings(parts: _Ingredients) -> Iterator[Condition]:
    yield Condition("text only", "ceilings", ReplacedImage(None), labels=REQUESTS)
    yield Condition("caption + query", "ceilings", parts.captioned)
    yield Condition("white image", "ceilings", ReplacedImage(parts.bench.engine.blank("white")), labels=REQUESTS)
    yield Condition("noise image", "ceilings", ReplacedImage(parts.bench.engine.blank("noise")), labels=REQUESTS)


def _cmrm(parts: _Ingredients) -> Iterator[Condition]:
    yield parts.dataset
    yield parts.sample


def _estimators(parts: _Ingredients) -> Iterator[Condition]:
    for estimator in sorted(set(ESTIMATORS) - {parts.recipe.estimator}):
        yield parts.remeasure(f"dataset-level, {estimator}", "estimators", replace(parts.recipe, estimator=estimator))
    other: Corruption = "white" if parts.recipe.corruption == "noise" else "noise"
    yield parts.remeasure(f"dataset-level, {other} image", "estimators", replace(parts.recipe, corruption=other))
    for estimator in sorted(set(ESTIMATORS) - {parts.sample_level.estimator, "pc1"}):  # pc1 takes several texts
        own = replace(parts.sample_level, estimator=estimator)
        yield replace(parts.sample, name=f"sample-level, {estimator}", group="estimators", defence=own)


def _alphas(parts: _Ingredients) -> Iterator[Condition]:
    for level in (parts.dataset, parts.sample):
        for alpha in parts.alphas:
            yield replace(level, name=f"{level.name}, alpha {alpha:g}", group="alphas", alpha=alpha)


def _places(parts: _Ingredients) -> Iterator[Condition]:
    count = parts.bench.engine.identity.layers
    thirds = [tuple(range(count * k // 3, count * (k + 1) // 3)) for k in range(3)]
    for name, layers in zip(("lower", "middle", "upper"), thirds, strict=True):
        yield replace(parts.dataset, name=f"dataset-level, {name} third of layers", group="places", layers=layers)
    yield replace(parts.dataset, name="dataset-level, all layers", group="places", layers=None)
    yield replace(parts.dataset, name="dataset-level, positions = all", group="places", positions="all")
    yield replace(parts.dataset, name="dataset-level, steps = all", group="places", steps="all")
    plain = parts.remeasure("plain mean, alpha 1, all layers", "places", replace(parts.recipe, estimator="mean"))
    yield replace(plain, alpha=1.0, layers=None, positions="last", steps="prompt")


def _rivals(parts: _Ingredients) -> Iterator[Condition]:
    engine, count = parts.bench.engine, parts.bench.engine.identity.layers
    tuned, direction = rival_settings(engine.identity.model), refusal_direction(engine, parts.anchors)
    # Untuned, the papers' layers, but for the one that the refusal direction's paper searches for each model.
    for name, key, defence, layers in (
        ("refusal direction, added", "add", DatasetLevel(direction), (count // 2,)),
        ("refusal direction, restored", "restore", Restored(engine, direction), tuple(range(count))),
        ("ShiftDC", "shiftdc", ShiftDC(parts.captioned, direction), paper_layers(count)),
    ):
        setting = tuned.get(key, RivalSetting(1.0, layers))
        yield Condition(name, "rivals", defence, setting.alpha, setting.layers)
    yield Condition("defence prompt (AdaShield-S)", "rivals", DefencePrompt())


def _controls(parts: _Ingredients) -> Iterator[Condition]:
    whole, recipe = parts.bench.offsets, parts.recipe
    for seed in SEEDS:
        yield parts.steer_by(f"random direction #{seed}", "controls", random_direction(whole, seed))
    # An anchor by itself has no principal component; its mean is the difference that pc1 takes it from.
    single: Estimator = "mean" if recipe.estimator == "pc1" else recipe.estimator
    each = extract_each(parts.bench.engine, parts.texts, estimator=single, corruption=recipe.corruption)
    for seed in SEEDS:
        yield parts.steer_by(f"random sign an anchor #{seed}", "controls", sign_flip(each, whole, seed))
    for group in ("harmless", "harmful"):
        if group in parts.anchors.groups:
            yield parts.remeasure(f"{group}-only anchors", "controls", parts.recipe, parts.anchors.only(group).texts)
    if len(parts.prompts) > 1:
        other = OtherPrompt(parts.sample_level, parts.prompts)
        yield replace(parts.sample, name="sample-level of another prompt", group="controls", defence=other)


def _paper(parts: _Ingredients) -> Iterator[Condition]:
    """The rows of the paper's table, at its setting: alpha 1 and all layers."""
    yield Condition("text only", "paper", ReplacedImage(None), labels=REQUESTS)
    yield Condition("caption + query", "paper", parts.captioned)
    for level in (parts.dataset, parts.sample):
        yield replace(level, group="paper", alpha=1.0, layers=None)


GROUPS: dict[str, Callable[[_Ingredients], Iterator[Condition]]] = {
    "paper": _paper,
    "ceilings": _ceilings,
    "cmrm": _cmrm,
    "estimators": _estimators,
    "alphas": _alphas,
    "places": _places,
    "rivals": _rivals,
    "controls": _controls,
}
