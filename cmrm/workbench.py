"""A model with its recipes and dataset-level offsets: what the page, the API and the CLI ask."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from .answering.steps import Row, Step
from .engines.base import Engine, Prepared
from .engines.opening import open_engine
from .errors import CmrmError
from .explaining.explain import Comparing, check_explainable, explain
from .explaining.explanation import Explanation
from .images import ImageInput, open_image
from .lru import Lru
from .progress import Progress, Told
from .settings import (
    LEFT_OPEN,
    SWEPT,
    Corruption,
    Estimator,
    Method,
    ModelChoice,
    Settings,
    checked_alphas,
    checked_layers,
)
from .steering.anchors import AnchorSet, load_anchors
from .steering.chance import random_direction
from .steering.extraction import extract
from .steering.offsets import Offsets
from .steering.recipes import Recipe, recipes_for
from .steering.shelf import find_or_measure
from .steering.vectors import Prompt, Steered, Vectors

_STORE_LIMIT = 1 << 28


class Measuring(Protocol):
    """Finds what a run is steered by: a stream of what `tell` makes of each pass's progress."""

    def __call__(self, tell: Callable[[Progress], Told]) -> Generator[Told, None, Offsets]:
        """Begin."""


@dataclass(frozen=True)
class Workbench:
    """One shared model behind its engine, ready to compare by either method.

    `offsets` are the dataset-level ones and `anchors` names the set or the file they come from; `notes` are
    sentences a user should see, such as layers left unquantized or offsets made for another revision.
    What was measured on anchors is kept, to explain answers and to steer in other ways than the recipe's.
    """

    engine: Engine
    offsets: Offsets
    anchors: str
    recipes: dict[Method, Recipe]
    notes: tuple[str, ...] = ()
    _states: Lru[np.ndarray] = field(default_factory=lambda: Lru(_STORE_LIMIT), compare=False, repr=False)
    _measured: Lru[Offsets] = field(default_factory=lambda: Lru(_STORE_LIMIT), compare=False, repr=False)

    @classmethod
    def open(
        cls,
        chosen: ModelChoice = ModelChoice(),  # noqa: B008  # frozen
        offsets: str | Path | None = None,
        report: Callable[[Progress], None] | None = None,
    ) -> "Workbench":
        """Open the chosen engine, and find its model's offsets as `over` does.

        Raises:
            CmrmError: a model, a server or an offsets file that can't be used, with the reason.
        """
        if offsets is not None:
            Offsets.load(offsets)  # a file that can't be read is told before a model is loaded
        return cls.over(open_engine(chosen), offsets, report)

    @classmethod
    def over(
        cls,
        engine: Engine,
        offsets: str | Path | None = None,
        report: Callable[[Progress], None] | None = None,
    ) -> "Workbench":
        """Find the offsets of an engine's model: the given file, the shipped or cached ones, or newly computed.

        Raises:
            CmrmError: an offsets file that can't be used, with the reason.
        """
        recipes = recipes_for(engine.identity.model)
        if offsets is not None:
            given = Offsets.load(offsets)
            notes = (*engine.notes, *given.check(engine.identity))
            return cls(engine, given, Path(offsets).name, recipes, notes)
        anchors = load_anchors(recipes["dataset"].anchors)
        found = find_or_measure(engine, anchors, recipes["dataset"], report)
        return cls(engine, found, anchors.name, recipes, engine.notes)

    def compare(
        self, image: ImageInput, prompt: str, settings: Settings | None = None, offsets: Offsets | None = None
    ) -> Generator[Step]:
        """Answer unsteered (row 0) and steered (row 1), by the method's recipe where the settings leave it open.

        The third answer that the settings may ask for is row 2: "random", steered by random vectors as long as the
        offsets (drawn by the seed), in the same batch; or "text", the unsteered answer to the prompt alone, behind the
        others. `offsets`, if given, take the place of the dataset-level ones. Another estimator or corruption than
        theirs is measured on the recipe's anchors first, as steps with progress, and kept.

        Raises:
            CmrmError: bad input, before the first step.
        """
        chosen = self.settle(settings or Settings(), offsets)
        measuring = self._find_or_measure(prompt, chosen, offsets)
        shown = Prompt(prompt, None if image is None else open_image(image))
        alphas = (_strength(chosen),) * (2 if chosen.third == "random" else 1)
        prepared = self.engine.prepare(shown, chosen, 1 + len(alphas))
        alone = self.engine.prepare(Prompt(prompt), chosen, 1) if chosen.third == "text" else None
        return self._answer(prepared, chosen, alphas, measuring, alone)

    def sweep(
        self,
        image: ImageInput,
        prompt: str,
        alphas: Sequence[float],
        settings: Settings | None = None,
        offsets: Offsets | None = None,
    ) -> Generator[Step]:
        """Answer greedily at alpha 0 (row 0) and at each other of `alphas`, in one batch; the last step has fluency.

        Of the settings, those of `SWEPT` count. `offsets`, if given, take the place of the dataset-level ones.

        Raises:
            CmrmError: bad input, before the first step.
        """
        chosen = self.settle((settings or Settings()).only(*SWEPT), offsets)
        strengths = tuple(alpha for alpha in checked_alphas(alphas) if alpha)
        measuring = self._find_or_measure(prompt, chosen, offsets)
        shown = Prompt(prompt, None if image is None else open_image(image))
        prepared = self.engine.prepare(shown, chosen, 1 + len(strengths))
        return self._answer(prepared, chosen, strengths, measuring, fluency=True)

    def explain(
        self,
        image: ImageInput,
        prompt: str,
        settings: Settings | None = None,
        offsets: Offsets | None = None,
        answers: Sequence[Sequence[int]] | None = None,
    ) -> Generator[Progress, None, Explanation]:
        """Say why the answers of `compare` differ, with progress before each pass; close it to stop.

        `answers` are the token ids of the unsteered and the steered answer, if they are known; else the model
        answers greedily.

        Raises:
            CmrmError: bad input, anchors without groups, or a tokenizer by which refusals can't be told; before
                the first progress, or instead of it.
        """
        chosen = replace(self.settle(settings or Settings(), offsets), temperature=0.0, third="none")
        measuring = self._find_or_measure(prompt, chosen, offsets)
        anchors = check_explainable(chosen, load_anchors(self.recipes[chosen.method].anchors))
        shown = Prompt(prompt, None if image is None else open_image(image))
        prepared = self.engine.prepare(shown, chosen, 2)
        return self._explain(prepared, shown, chosen, measuring, anchors, answers)

    def extract(self, anchors: Sequence[str], settings: Settings | None = None) -> Generator[Progress, None, Offsets]:
        """Measure dataset-level offsets pass by pass.

        Of the settings, those of `MEASURED` count; None is the recipe's own choice.

        Raises:
            CmrmError: no anchors, or one that can't be used; at the first step.
        """
        how = self.recipes["dataset"].settle_measuring(settings or Settings())
        return extract(self.engine, anchors, *how, tell=lambda progress: progress)

    def settle(self, settings: Settings, offsets: Offsets | None = None) -> Settings:
        """Return settings with nothing left to the recipe; layers of None are all.

        Estimator and corruption of the dataset-level method are those that `offsets` (None: the workbench's own)
        were measured by, or the recipe's where they don't say.

        Raises:
            CmrmError: layers that the model does not have.
        """
        recipe = self.recipes[settings.method]
        if settings.method == "dataset":
            estimator, corruption = self._measured_by(offsets or self.offsets)
            recipe = replace(recipe, estimator=estimator, corruption=corruption)
        if settings.layers:
            checked_layers(settings.layers, self.engine.identity.layers)
        return replace(
            settings, **{name: getattr(recipe, name) for name in LEFT_OPEN if getattr(settings, name) is None}
        )

    def find_offsets(self, settings: Settings, offsets: Offsets | None) -> Offsets | None:
        """Return what settled settings steer by, or None where a run measures it: of its prompt, or on the anchors.

        Raises:
            CmrmError: `offsets` of another model, or measured in another way than asked for.
        """
        if settings.method == "sample":
            return None
        known = offsets or self.offsets
        known.check(self.engine.identity)
        made = self._measured_by(known)
        if made == (settings.estimator, settings.corruption):
            return known
        if offsets is not None:
            raise CmrmError(
                f"Your offsets were measured by the estimator {made[0]!r} with a {made[1]!r} image; choose these, or "
                "measure your offsets anew."
            )
        return None

    def open_offsets(self, path: str | Path) -> Offsets:
        """Read an offsets file to steer this model by.

        Raises:
            CmrmError: no offsets file, one of another model, or a vector that points against the model's own, as
                those of a negative alpha would.
        """
        offsets = Offsets.load(path)
        offsets.check(self.engine.identity)
        # Layer by layer: which of them steer is the visitor's choice.
        lengths = np.linalg.norm(offsets.values, axis=-1) * np.linalg.norm(self.offsets.values, axis=-1)
        cosines = (offsets.values * self.offsets.values).sum(axis=-1) / np.maximum(lengths, 1e-8)
        if against := [f"{layer} (cosine {cosine:.2f})" for layer, cosine in enumerate(cosines) if cosine < 0]:
            raise CmrmError(
                f"The offsets point against the model's own at layer {', '.join(against)}, so steering by them would "
                "remove safety; extract them anew."
            )
        return offsets

    def _measured_by(self, offsets: Offsets) -> tuple[Estimator, Corruption]:
        """Return the estimator and the corruption of dataset-level offsets."""
        made, recipe = offsets.origin, self.recipes["dataset"]
        return made.estimator or recipe.estimator, made.corruption or recipe.corruption  # type: ignore[return-value]

    def _find_or_measure(self, prompt: str, settings: Settings, offsets: Offsets | None) -> Measuring:
        """Return how what settled settings steer by is measured; what is known comes at once."""
        known = self.find_offsets(settings, offsets)
        return partial(self._measure, prompt, settings) if known is None else partial(_at_once, known)

    def _measure(
        self, prompt: str, settings: Settings, tell: Callable[[Progress], Told]
    ) -> Generator[Told, None, Offsets]:
        assert settings.estimator, "settings are settled"
        assert settings.corruption, "settings are settled"
        how = settings.estimator, settings.corruption
        if settings.method == "sample":
            return (yield from extract(self.engine, [prompt], *how, tell))
        found = self._measured.get(" ".join(how))
        if found is None:
            texts = load_anchors(self.recipes["dataset"].anchors).texts
            found = yield from extract(self.engine, texts, *how, tell)
            self._measured.keep(" ".join(how), found, found.values.nbytes)
        return found

    def _answer(
        self,
        prepared: Prepared,
        settings: Settings,
        alphas: tuple[float, ...],
        measuring: Measuring,
        alone: Prepared | None = None,
        fluency: bool = False,
    ) -> Generator[Step]:
        """Measure what is steered by, then answer, then answer the text `alone`."""
        last = () if alone is None else (Row(0.0),)
        rows = (Row(0.0), *map(Row, alphas), *last)
        # 1. The offsets, at once where they are known.
        offsets = yield from measuring(lambda progress: Step(rows, progress=progress))
        # 2. All rows in lockstep; a random direction is a row of its own vectors.
        vectors: Vectors | list[Vectors] = offsets
        if settings.third == "random":
            vectors = [offsets, offsets, random_direction(offsets, settings.seed)]
        for step in prepared.answer(Steered.by(settings, vectors, 0.0, *alphas), fluency=fluency):
            rows = step.rows
            yield replace(step, rows=(*rows, *last), done=step.done and alone is None)
        # 3. The text by itself, behind the others.
        if alone is not None:
            for step in alone.answer(None):
                yield Step((*rows, *step.rows), step.done)

    def _explain(
        self,
        prepared: Prepared,
        shown: Prompt,
        settings: Settings,
        measuring: Measuring,
        anchors: AnchorSet,
        answers: Sequence[Sequence[int]] | None,
    ) -> Generator[Progress, None, Explanation]:
        yield Progress("reading")
        offsets = yield from measuring(lambda progress: progress)
        if answers is None:
            steered = Steered.by(settings, offsets, 0.0, _strength(settings))
            for step in prepared.answer(steered):
                answers = [row.ids for row in step.rows]
                yield Progress("answering")
        run = Comparing(self.engine, shown, settings, offsets, self._states)
        return (yield from explain(run, anchors, answers or ((), ())))


def _strength(settings: Settings) -> float:
    assert settings.alpha is not None, "settings are settled"
    return settings.alpha


def _at_once(known: Offsets, tell: Callable[[Progress], Told]) -> Generator[Told, None, Offsets]:
    yield from ()
    return known
