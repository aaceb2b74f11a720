"""The rows of the table, in groups: ceilings, CMRM and its settings, rivals, controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ..data.records import Record
from ..methods.captions import Captioned
from ..methods.ceilings import Beside
from ..methods.cmrm import DatasetLevel, SampleLevel
from ..methods.controls import OtherPrompt, random_direction, sign_flip
from ..methods.defence import Defence, Undefended
from ..methods.defence_prompt import DefencePrompt
from ..methods.refusal_direction import Restored, refusal_direction
from ..methods.shiftdc import ShiftDC, paper_layers
from ..settings import ESTIMATORS, Corruption, Estimator
from ..steering.anchors import AnchorSet, load_anchors
from ..steering.extraction import extract_offsets, many_prompt_offsets
from ..steering.offsets import Offsets
from ..steering.recipes import Recipe, RivalSetting, rival_settings
from ..workbench import Workbench
from .report import UNSTEERED
from .study import Condition

SEEDS = range(5)
REQUESTS = ("harmful", "harmless")

Maker = Callable[["_Shelf"], Iterator[Condition]]


def conditions(
    bench: Workbench, records: Sequence[Record], groups: Sequence[str], alphas: Sequence[float]
) -> list[Condition]:
    """Return the unsteered row and the rows of the groups, each once, in the order of `GROUPS`."""
    shelf = _Shelf(bench, tuple(dict.fromkeys(record.prompt for record in records)), tuple(alphas))
    rows = [Condition(UNSTEERED, "ceilings", Undefended())]
    for group, maker in GROUPS.items():
        if group in groups:
            rows += maker(shelf)
    unique: dict[str, Condition] = {}
    for row in rows:
        unique.setdefault(row.name, row)
    return list(unique.values())


@dataclass(frozen=True)
class _Shelf:
    """What several rows are made of, measured when a row first needs it."""

    bench: Workbench
    prompts: tuple[str, ...]
    alphas: tuple[float, ...]

    @cached_property
    def anchors(self) -> AnchorSet:
        """The whole anchor set of the dataset-level offsets, all groups."""
        return load_anchors(self.recipe.anchors.partition(":")[0])

    @cached_property
    def direction(self) -> Offsets:
        return refusal_direction(self.bench.vlm, self.anchors)

    @cached_property
    def captioned(self) -> Captioned:
        return Captioned(self.bench.vlm)

    @cached_property
    def recipe(self) -> Recipe:
        """How the dataset-level offsets were measured, and how they are applied."""
        return self.bench.recipe("dataset")

    @cached_property
    def dataset(self) -> Condition:
        """CMRM at the dataset level, as the page has it."""
        return _placed("dataset-level", DatasetLevel(self.bench.offsets), self.recipe)

    @cached_property
    def sample(self) -> Condition:
        """CMRM at the sample level, as the page has it."""
        return _placed("sample-level", self.sample_level, self.bench.recipe("sample"))

    @cached_property
    def sample_level(self) -> SampleLevel:
        recipe = self.bench.recipe("sample")
        return SampleLevel(self.bench.vlm, recipe.estimator, recipe.corruption)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The anchors that the recipe takes."""
        return load_anchors(self.recipe.anchors).texts

    def level(
        self,
        name: str,
        group: str,
        *,
        texts: Sequence[str] = (),
        estimator: Estimator | None = None,
        corruption: Corruption | None = None,
    ) -> Condition:
        """The dataset-level row with offsets measured in another way; what is not given is the recipe's."""
        offsets = extract_offsets(
            self.bench.vlm,
            texts or self.texts,
            estimator=estimator or self.recipe.estimator,
            corruption=corruption or self.recipe.corruption,
        )
        return self.instead(name, group, offsets)

    def instead(self, name: str, group: str, offsets: Offsets) -> Condition:
        """The dataset-level row with other offsets: the same alpha, layers, positions and steps."""
        return replace(self.dataset, name=name, group=group, defence=DatasetLevel(offsets))


def _placed(name: str, defence: Defence, recipe: Recipe) -> Condition:
    return Condition(name, "cmrm", defence, recipe.alpha, recipe.layers, recipe.positions, recipe.steps)


def _ceilings(shelf: _Shelf) -> Iterator[Condition]:
    yield Condition("text only", "ceilings", Beside(None), labels=REQUESTS)
    yield Condition("caption + query", "ceilings", shelf.captioned)
    yield Condition("white image", "ceilings", Beside(shelf.bench.vlm.corrupted("white")), labels=REQUESTS)
    yield Condition("noise image", "ceilings", Beside(shelf.bench.vlm.corrupted("noise")), labels=REQUESTS)


def _cmrm(shelf: _Shelf) -> Iterator[Condition]:
    yield shelf.dataset
    yield shelf.sample


def _estimators(shelf: _Shelf) -> Iterator[Condition]:
    for estimator in sorted(set(ESTIMATORS) - {shelf.recipe.estimator}):
        yield shelf.level(f"dataset-level, {estimator}", "estimators", estimator=estimator)
    other: Corruption = "white" if shelf.recipe.corruption == "noise" else "noise"
    yield shelf.level(f"dataset-level, {other} image", "estimators", corruption=other)
    for estimator in sorted(set(ESTIMATORS) - {shelf.sample_level.estimator, "pc1"}):  # pc1 takes several texts
        own = replace(shelf.sample_level, estimator=estimator)
        yield replace(shelf.sample, name=f"sample-level, {estimator}", group="estimators", defence=own)


def _alphas(shelf: _Shelf) -> Iterator[Condition]:
    for level in (shelf.dataset, shelf.sample):
        for alpha in shelf.alphas:
            yield replace(level, name=f"{level.name}, alpha {alpha:g}", group="alphas", alpha=alpha)


def _places(shelf: _Shelf) -> Iterator[Condition]:
    count = len(shelf.bench.vlm.layers)
    thirds = [tuple(range(count * k // 3, count * (k + 1) // 3)) for k in range(3)]
    for name, layers in zip(("lower", "middle", "upper"), thirds, strict=True):
        yield replace(shelf.dataset, name=f"dataset-level, {name} third of layers", group="places", layers=layers)
    yield replace(shelf.dataset, name="dataset-level, all layers", group="places", layers=None)
    yield replace(shelf.dataset, name="dataset-level, positions = all", group="places", positions="all")
    yield replace(shelf.dataset, name="dataset-level, steps = all", group="places", steps="all")
    plain = shelf.level("plain mean, alpha 1, all layers", "places", estimator="mean")
    yield replace(plain, alpha=1.0, layers=None, positions="last", steps="prompt")


def _rivals(shelf: _Shelf) -> Iterator[Condition]:
    vlm, count = shelf.bench.vlm, len(shelf.bench.vlm.layers)
    settings = {
        # Untuned: the papers' layers, but for the one that the refusal direction's paper searches for each model.
        "add": RivalSetting(1.0, (count // 2,)),
        "restore": RivalSetting(1.0, tuple(range(count))),
        "shiftdc": RivalSetting(1.0, paper_layers(count)),
        **rival_settings(vlm.identity.model),
    }
    rivals: list[tuple[str, str, Defence]] = [
        ("refusal direction, added", "add", DatasetLevel(shelf.direction)),
        ("refusal direction, restored", "restore", Restored(vlm, shelf.direction)),
        ("ShiftDC", "shiftdc", ShiftDC(shelf.captioned, shelf.direction)),
    ]
    for name, key, defence in rivals:
        yield Condition(name, "rivals", defence, settings[key].alpha, settings[key].layers)
    yield Condition("defence prompt (AdaShield-S)", "rivals", DefencePrompt())


def _controls(shelf: _Shelf) -> Iterator[Condition]:
    vlm, whole, recipe = shelf.bench.vlm, shelf.bench.offsets, shelf.recipe
    for seed in SEEDS:
        yield shelf.instead(f"random direction #{seed}", "controls", random_direction(whole, seed))
    # An anchor by itself has no principal component; its mean is the difference that pc1 takes it from.
    single: Estimator = "mean" if recipe.estimator == "pc1" else recipe.estimator
    each = many_prompt_offsets(vlm, shelf.texts, estimator=single, corruption=recipe.corruption)
    for seed in SEEDS:
        yield shelf.instead(f"random sign an anchor #{seed}", "controls", sign_flip(each, whole, seed))
    for group in ("harmless", "harmful"):
        if group in shelf.anchors.groups:
            yield shelf.level(f"{group}-only anchors", "controls", texts=shelf.anchors.only(group).texts)
    if len(shelf.prompts) > 1:
        other = OtherPrompt(shelf.sample_level, shelf.prompts)
        yield replace(shelf.sample, name="sample-level of another prompt", group="controls", defence=other)


def _paper(shelf: _Shelf) -> Iterator[Condition]:
    """The rows of the paper's table, at its setting: alpha 1 and all layers."""
    yield Condition("text only", "paper", Beside(None), labels=REQUESTS)
    yield Condition("caption + query", "paper", shelf.captioned)
    for level in (shelf.dataset, shelf.sample):
        yield replace(level, group="paper", alpha=1.0, layers=None)


GROUPS: dict[str, Maker] = {
    "paper": _paper,
    "ceilings": _ceilings,
    "cmrm": _cmrm,
    "estimators": _estimators,
    "alphas": _alphas,
    "places": _places,
    "rivals": _rivals,
    "controls": _controls,
}
