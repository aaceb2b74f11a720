"""The rows of the table, in groups: ceilings, CMRM and its settings, rivals, controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ..anchors import AnchorSet, load_anchors
from ..extraction import extract_offsets, many_prompt_offsets
from ..methods.adashield import DefencePrompt
from ..methods.captions import Captioned, Captions
from ..methods.ceilings import OtherImage, TextOnly
from ..methods.controls import OtherPrompt, only_anchors, random_direction, sign_flip
from ..methods.defence import Undefended
from ..methods.levels import DatasetLevel, SampleLevel
from ..methods.refusal_direction import Restored, added, refusal_direction
from ..methods.shiftdc import ShiftDC, paper_layers
from ..offsets import Offsets
from ..options import ESTIMATORS, Corruption, Estimator
from ..recipes import RivalSetting, rival_settings
from ..records import Record
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
        return load_anchors(self.bench.recipes["dataset"].anchors.partition(":")[0])

    @cached_property
    def direction(self) -> Offsets:
        return refusal_direction(self.bench.vlm, self.anchors)

    @cached_property
    def captioned(self) -> Captioned:
        return Captioned(Captions(self.bench.vlm), "caption + query")

    @cached_property
    def dataset(self) -> Condition:
        """CMRM at the dataset level, as shipped."""
        recipe = self.bench.recipes["dataset"]
        defence = DatasetLevel(self.bench.offsets)
        return Condition("dataset-level", "cmrm", defence, recipe.alpha, recipe.layers, steps=recipe.steps)

    @cached_property
    def sample(self) -> Condition:
        """CMRM at the sample level, as shipped."""
        recipe = self.bench.recipes["sample"]
        return Condition("sample-level", "cmrm", self.sample_level, recipe.alpha, recipe.layers, steps=recipe.steps)

    @property
    def sample_level(self) -> SampleLevel:
        recipe = self.bench.recipes["sample"]
        return SampleLevel(self.bench.vlm, recipe.estimator, recipe.corruption)

    def offsets(self, estimator: Estimator, corruption: Corruption) -> DatasetLevel:
        """Dataset-level offsets of the shipped anchors, measured in another way."""
        texts = load_anchors(self.bench.recipes["dataset"].anchors).texts
        return DatasetLevel(extract_offsets(self.bench.vlm, texts, estimator=estimator, corruption=corruption))

    def controlled(self, name: str, offsets: Offsets) -> Condition:
        """A control in the place of the dataset-level offsets: the same alpha, layers and steps."""
        return replace(self.dataset, name=name, group="controls", defence=DatasetLevel(offsets, name))


def _ceilings(shelf: _Shelf) -> Iterator[Condition]:
    vlm = shelf.bench.vlm
    yield Condition("text only", "ceilings", TextOnly(), labels=REQUESTS)
    yield Condition(shelf.captioned.name, "ceilings", shelf.captioned)
    for corruption in ("white", "noise"):
        other = OtherImage.corrupted(vlm, corruption)
        yield Condition(other.name, "ceilings", other, labels=REQUESTS)


def _cmrm(shelf: _Shelf) -> Iterator[Condition]:
    yield shelf.dataset
    yield shelf.sample


def _estimators(shelf: _Shelf) -> Iterator[Condition]:
    recipes = shelf.bench.recipes
    for estimator in sorted(set(ESTIMATORS) - {recipes["dataset"].estimator}):
        defence = shelf.offsets(estimator, recipes["dataset"].corruption)
        yield replace(shelf.dataset, name=f"dataset-level, {estimator}", group="estimators", defence=defence)
    defence = shelf.offsets(recipes["dataset"].estimator, "noise")
    yield replace(shelf.dataset, name="dataset-level, noise image", group="estimators", defence=defence)
    for estimator in sorted(set(ESTIMATORS) - {recipes["sample"].estimator, "pc1"}):  # pc1 takes several texts
        own = SampleLevel(shelf.bench.vlm, estimator, recipes["sample"].corruption)
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
    plain = shelf.offsets("mean", shelf.bench.recipes["dataset"].corruption)
    yield Condition("plain mean, alpha 1, all layers", "places", plain)


def _rivals(shelf: _Shelf) -> Iterator[Condition]:
    vlm, count = shelf.bench.vlm, len(shelf.bench.vlm.layers)
    settings = {
        # Untuned: the papers' layers, but for the one that the refusal direction's paper searches for each model.
        "add": RivalSetting(1.0, (count // 2,)),
        "restore": RivalSetting(1.0, tuple(range(count))),
        "shiftdc": RivalSetting(1.0, paper_layers(count)),
        **rival_settings(vlm.identity.model),
    }
    defences = {
        "add": added(shelf.direction),
        "restore": Restored(vlm, shelf.direction),
        "shiftdc": ShiftDC(shelf.captioned, shelf.direction),
    }
    for key, defence in defences.items():
        yield Condition(defence.name, "rivals", defence, settings[key].alpha, settings[key].layers)
    prompt = DefencePrompt()
    yield Condition(f"{prompt.name} (AdaShield-S)", "rivals", prompt)


def _controls(shelf: _Shelf) -> Iterator[Condition]:
    vlm, recipe = shelf.bench.vlm, shelf.bench.recipes["dataset"]
    for seed in SEEDS:
        yield shelf.controlled(f"random direction #{seed}", random_direction(shelf.bench.offsets, seed))
    texts = load_anchors(recipe.anchors).texts
    each = many_prompt_offsets(vlm, texts, estimator=recipe.estimator, corruption=recipe.corruption)
    for seed in SEEDS:
        yield shelf.controlled(f"random sign an anchor #{seed}", sign_flip(each, shelf.bench.offsets, seed))
    for group in ("harmless", "harmful"):
        if group in shelf.anchors.groups:
            one = only_anchors(vlm, shelf.anchors, group, estimator=recipe.estimator, corruption=recipe.corruption)
            yield replace(shelf.dataset, name=one.name, group="controls", defence=one)
    if len(shelf.prompts) > 1:
        other = OtherPrompt(shelf.sample_level, shelf.prompts)
        yield replace(shelf.sample, name=other.name, group="controls", defence=other)


def _paper(shelf: _Shelf) -> Iterator[Condition]:
    """The rows of the paper's table, at its setting: alpha 1 and all layers."""
    yield Condition("text only", "paper", TextOnly(), labels=REQUESTS)
    yield Condition(shelf.captioned.name, "paper", shelf.captioned)
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
