"""The rows of the table, in groups: ceilings, CMRM and its settings, rivals, controls."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ..data.records import Record
from ..methods.captions import Captioned
from ..methods.ceilings import ReplacedImage
from ..methods.cmrm import DatasetLevel, SampleLevel
from ..methods.controls import OtherPrompt
from ..methods.defence import Defence
from ..methods.defence_prompt import DefencePrompt
from ..methods.refusal_direction import Restored, refusal_direction
from ..methods.shiftdc import ShiftDC, paper_layers
from ..progress import finish
from ..settings import ESTIMATORS, Corruption, Estimator, Method, Settings
from ..steering.anchors import AnchorSet, load_anchors
from ..steering.chance import random_direction, sign_flip
from ..steering.extraction import extract_each
from ..steering.offsets import Offsets
from ..steering.recipes import RivalSetting, rival_settings
from ..steering.vectors import Vectors
from ..workbench import Workbench
from .report import UNSTEERED
from .study import Condition

SEEDS = range(5)
REQUESTS = ("harmful", "harmless")


def make_conditions(
    bench: Workbench,
    settings: Settings,
    records: Sequence[Record],
    groups: Sequence[str],
    alphas: Sequence[float],
) -> list[Condition]:
    """Return the unsteered row and the rows of the groups, each once, in the order of `GROUPS`.

    `settings` are those of all rows, but for what a row's method and group choose.
    """
    parts = _Ingredients(bench, settings, tuple(dict.fromkeys(record.prompt for record in records)), tuple(alphas))
    rows = [Condition(UNSTEERED, "ceilings", Defence(), parts.plain)]
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
    settings: Settings
    prompts: tuple[str, ...]
    alphas: tuple[float, ...]

    @cached_property
    def anchors(self) -> AnchorSet:
        """The whole anchor set of the dataset-level offsets, all groups."""
        return load_anchors(self.bench.recipes["dataset"].anchors.partition(":")[0])

    @cached_property
    def captioned(self) -> Captioned:
        return Captioned(self.bench.engine)

    @property
    def plain(self) -> Settings:
        """Settings of rows without a recipe: what is added, if anything, is added once, as it is, at all layers."""
        return replace(self.settings, alpha=1.0, layers=None, positions="last", steps="prompt")

    @cached_property
    def dataset(self) -> Condition:
        """CMRM at the dataset level, as the page has it."""
        return Condition("dataset-level", "cmrm", DatasetLevel(self.offsets), self.settle("dataset"))

    @cached_property
    def offsets(self) -> Offsets:
        """The workbench's, or others where the settings say how they are measured."""
        settled = self.settle("dataset")
        return self.bench.find_offsets(settled, None) or self.measure(settled)

    @cached_property
    def sample(self) -> Condition:
        """CMRM at the sample level, as the page has it."""
        settled = self.settle("sample")
        return Condition("sample-level", "cmrm", SampleLevel(self.bench.engine, *_measured_by(settled)), settled)

    def settle(self, method: Method) -> Settings:
        """The settings of a method's rows."""
        return self.bench.settle(replace(self.settings, method=method))

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The anchors that the recipe takes."""
        return load_anchors(self.bench.recipes["dataset"].anchors).texts

    def remeasure(self, row: Condition, texts: Sequence[str] = ()) -> Condition:
        """A row with offsets measured as its settings say, on the recipe's anchors or other texts."""
        return replace(row, defence=DatasetLevel(self.measure(row.settings, texts)))

    def measure(self, settings: Settings, texts: Sequence[str] = ()) -> Offsets:
        """Measure dataset-level offsets as settings say, on the recipe's anchors or other texts."""
        return finish(self.bench.extract(texts or self.texts, settings))

    def steer_by(self, name: str, group: str, vectors: Vectors) -> Condition:
        """The dataset-level row with other vectors: the same alpha, layers, positions and steps."""
        return replace(self.dataset, name=name, group=group, defence=DatasetLevel(vectors))


def _measured_by(settings: Settings) -> tuple[Estimator, Corruption]:
    assert settings.estimator is not None, "settings are settled"
    assert settings.corruption is not None, "settings are settled"
    return settings.estimator, settings.corruption


def _ceilings(parts: _Ingredients) -> Iterator[Condition]:
    blank, plain = parts.bench.engine.blank, parts.plain
    yield Condition("text only", "ceilings", ReplacedImage(None), plain, REQUESTS)
    yield Condition("caption + query", "ceilings", parts.captioned, plain)
    yield Condition("white image", "ceilings", ReplacedImage(blank("white")), plain, REQUESTS)
    yield Condition("noise image", "ceilings", ReplacedImage(blank("noise")), plain, REQUESTS)


def _cmrm(parts: _Ingredients) -> Iterator[Condition]:
    yield parts.dataset
    yield parts.sample


def _estimators(parts: _Ingredients) -> Iterator[Condition]:
    used, corruption = _measured_by(parts.dataset.settings)
    for estimator in sorted(set(ESTIMATORS) - {used}):
        yield parts.remeasure(parts.dataset.vary(f"dataset-level, {estimator}", "estimators", estimator=estimator))
    other: Corruption = "white" if corruption == "noise" else "noise"
    yield parts.remeasure(parts.dataset.vary(f"dataset-level, {other} image", "estimators", corruption=other))
    used, corruption = _measured_by(parts.sample.settings)
    for estimator in sorted(set(ESTIMATORS) - {used, "pc1"}):  # pc1 takes several texts
        own = SampleLevel(parts.bench.engine, estimator, corruption)
        row = parts.sample.vary(f"sample-level, {estimator}", "estimators", estimator=estimator)
        yield replace(row, defence=own)


def _alphas(parts: _Ingredients) -> Iterator[Condition]:
    for level in (parts.dataset, parts.sample):
        for alpha in parts.alphas:
            yield level.vary(f"{level.name}, alpha {alpha:g}", "alphas", alpha=alpha)


def _places(parts: _Ingredients) -> Iterator[Condition]:
    count = parts.bench.engine.identity.layers
    thirds = [tuple(range(count * k // 3, count * (k + 1) // 3)) for k in range(3)]
    for name, layers in zip(("lower", "middle", "upper"), thirds, strict=True):
        yield parts.dataset.vary(f"dataset-level, {name} third of layers", "places", layers=layers)
    yield parts.dataset.vary("dataset-level, all layers", "places", layers=None)
    yield parts.dataset.vary("dataset-level, positions = all", "places", positions="all")
    yield parts.dataset.vary("dataset-level, steps = all", "places", steps="all")
    plain = replace(parts.dataset, settings=replace(parts.plain, corruption=parts.dataset.settings.corruption))
    yield parts.remeasure(plain.vary("plain mean, alpha 1, all layers", "places", estimator="mean"))


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
        where = replace(parts.plain, alpha=setting.alpha, layers=setting.layers)
        yield Condition(name, "rivals", defence, where)
    yield Condition("defence prompt (AdaShield-S)", "rivals", DefencePrompt(), parts.plain)


def _controls(parts: _Ingredients) -> Iterator[Condition]:
    whole, (estimator, corruption) = parts.offsets, _measured_by(parts.dataset.settings)
    for seed in SEEDS:
        yield parts.steer_by(f"random direction #{seed}", "controls", random_direction(whole, seed))
    # An anchor by itself has no principal component; its mean is the difference that pc1 takes it from.
    single: Estimator = "mean" if estimator == "pc1" else estimator
    each = extract_each(parts.bench.engine, parts.texts, estimator=single, corruption=corruption)
    for seed in SEEDS:
        yield parts.steer_by(f"random sign an anchor #{seed}", "controls", sign_flip(each, whole, seed))
    for group in ("harmless", "harmful"):
        if group in parts.anchors.groups:
            row = parts.dataset.vary(f"{group}-only anchors", "controls")
            yield parts.remeasure(row, parts.anchors.only(group).texts)
    if len(parts.prompts) > 1:
        level = SampleLevel(parts.bench.engine, *_measured_by(parts.sample.settings))
        other = OtherPrompt(level, parts.prompts)
        yield replace(parts.sample, name="sample-level of another prompt", group="controls", defence=other)


def _paper(parts: _Ingredients) -> Iterator[Condition]:
    """The rows of the paper's table, at its setting: alpha 1 and all layers."""
    yield Condition("text only", "paper", ReplacedImage(None), parts.plain, REQUESTS)
    yield Condition("caption + query", "paper", parts.captioned, parts.plain)
    for level in (parts.dataset, parts.sample):
        yield level.vary(level.name, "paper", alpha=1.0, layers=None)


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
