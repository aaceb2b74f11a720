"""A model with its recipes and dataset-level offsets: what the page, the API and the CLI ask."""

import hashlib
import warnings
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from .answering.comparison import ImageInput, Row, Step, compare
from .answering.explain import Explanation, explain
from .errors import CmrmError, CmrmWarning
from .files import ASSETS, cache_folder
from .lru import Kept
from .methods.controls import random_direction
from .model.vlm import Vlm
from .settings import (
    Corruption,
    DeviceMap,
    Estimator,
    Method,
    Quantization,
    Third,
    check_choice,
    checked_alphas,
    checked_layers,
)
from .steering.anchors import AnchorSet, load_anchors
from .steering.extraction import MEASURING, Measuring, Progress, anchors_digest, extract_offsets, extracting
from .steering.offsets import Offsets
from .steering.recipes import Recipe, recipes_for
from .steering.steer import PerRow, Steering

_STATES_LIMIT = 1 << 28


@dataclass(frozen=True)
class Workbench:
    """One shared model, ready to compare by either method.

    `offsets` are the dataset-level ones and `anchors` names the set they come from; `notes` are
    sentences a user should see, such as layers left unquantized or offsets made for another revision.
    `states` keeps what was measured on anchors, to explain answers and to steer in other ways than the recipe's.
    """

    vlm: Vlm
    offsets: Offsets
    anchors: str
    recipes: dict[Method, Recipe]
    notes: tuple[str, ...] = ()
    states: Kept[Any] = field(default_factory=lambda: Kept(_STATES_LIMIT), compare=False, repr=False)

    @classmethod
    def open(
        cls,
        model: str = "pocket",
        quantization: Quantization = "auto",
        offsets: str | Path | None = None,
        progress: Progress | None = None,
        device_map: DeviceMap | None = None,
        *,
        plain_template: bool = False,
    ) -> "Workbench":
        """Load a model and its offsets: the given file, the shipped or cached ones, or newly computed.

        `plain_template` is for models without a chat template (`Vlm.load`).

        Raises:
            CmrmError: a model or an offsets file that can't be used, with the reason.
        """
        vlm = Vlm.load(model, quantization, device_map, plain_template=plain_template)
        recipes = recipes_for(vlm.identity.model)
        if offsets is not None:
            given = Offsets.load(offsets)
            return cls(vlm, given, f"of {Path(offsets).name}", recipes, (*vlm.notes, *given.check(vlm)))
        anchors = load_anchors(recipes["dataset"].anchors)
        found = _shipped(vlm, anchors, recipes["dataset"]) or _cached(vlm, anchors, recipes["dataset"], progress)
        return cls(vlm, found, anchors.name, recipes, vlm.notes)

    def compare(
        self,
        image: ImageInput,
        prompt: str,
        *,
        method: Method = "dataset",
        offsets: Offsets | None = None,
        third: Third = "none",
        seed: int = 0,
        **asked: Any,
    ) -> Generator[Step]:
        """Answer unsteered (row 0) and steered (row 1) by a method's recipe.

        `asked` has changes to it, as `recipe` takes them, and max_new_tokens, temperature and top_p of
        `comparison.compare`. `third` adds row 2: "random", steered by random vectors as long as the offsets (drawn
        by `seed`), in the same batch; or "text", the unsteered answer to the prompt alone, behind the others.
        `offsets`, if given, take the place of the dataset-level ones. Another estimator or corruption than theirs is
        measured on the recipe's anchors first, as steps with a note, and kept.

        Raises:
            CmrmError: bad input, before the first step.
        """
        drawn = {name: asked.pop(name) for name in ("max_new_tokens", "temperature", "top_p") if name in asked}
        recipe, measuring = self._asked(method, prompt, offsets, asked)
        check_choice("third", third, Third)
        beside = seed if third == "random" else None
        stream = self._answers(image, prompt, recipe, measuring, (recipe.alpha,), beside, seed=seed, **drawn)
        if third != "text":
            return stream
        return _followed(stream, compare(self.vlm, None, prompt, None, (), seed=seed, **drawn))

    def sweep(
        self,
        image: ImageInput,
        prompt: str,
        alphas: Sequence[float],
        *,
        method: Method = "dataset",
        offsets: Offsets | None = None,
        max_new_tokens: int = 128,
    ) -> Generator[Step]:
        """Answer greedily at alpha 0 (row 0) and at each other of `alphas`, in one batch; the last step has fluency.

        `offsets`, if given, take the place of the dataset-level ones.

        Raises:
            CmrmError: bad input, before the first step.
        """
        chosen = tuple(alpha for alpha in checked_alphas(alphas) if alpha)
        recipe, measuring = self._asked(method, prompt, offsets, {})
        return self._answers(image, prompt, recipe, measuring, chosen, max_new_tokens=max_new_tokens, fluency=True)

    def explain(
        self,
        image: ImageInput,
        prompt: str,
        *,
        method: Method = "dataset",
        offsets: Offsets | None = None,
        max_new_tokens: int = 128,
        answers: Sequence[Sequence[int]] | None = None,
        **changes: Any,
    ) -> Generator[str | Explanation]:
        """Say why the answers of `compare` differ: a sentence before each pass, the explanation last; close it to stop.

        `answers` are the token ids of the unsteered and the steered answer, if they are known; else the model
        answers greedily. `offsets` and `changes` are those of `compare`.

        Raises:
            CmrmError: bad input, anchors without groups, or a tokenizer by which refusals can't be told; before
                the first sentence, or instead of it.
        """
        recipe, measuring = self._asked(method, prompt, offsets, changes)
        return explain(self.vlm, self.states, image, prompt, method, recipe, measuring, answers, max_new_tokens)

    def _answers(
        self,
        image: ImageInput,
        prompt: str,
        recipe: Recipe,
        measuring: Measuring,
        alphas: tuple[float, ...],
        beside: int | None = None,
        **options: Any,
    ) -> Generator[Step]:
        """Check the request, then measure what it is steered by, then answer.

        `beside` is the seed of a row steered by random vectors, behind that of the one alpha.
        """
        steering, alphas = _Later(), alphas if beside is None else alphas * 2
        where: dict[str, Any] = {name: getattr(recipe, name) for name in ("layers", "positions", "steps")}
        stream = compare(self.vlm, image, prompt, steering, alphas, **where, **options)

        def answered() -> Generator[Step]:
            for found in measuring:
                if not isinstance(found, Offsets):
                    yield Step((Row(0.0), *map(Row, alphas)), note=MEASURING.format(*found))
                elif beside is None:
                    steering.found = found
                else:
                    steering.found = PerRow([found, found, random_direction(found, beside)])
            yield from stream

        return answered()

    def _asked(
        self, method: Method, prompt: str, offsets: Offsets | None, changes: dict[str, Any]
    ) -> tuple[Recipe, Measuring]:
        """Return how to steer, and the stream of what to steer by: what is known comes at once."""
        recipe = self.recipe(method, offsets, **changes)
        known = self.at_hand(method, recipe.estimator, recipe.corruption, offsets)
        if known is not None:
            return recipe, [known]
        if method == "sample":
            return recipe, extracting(self.vlm, [prompt], estimator=recipe.estimator, corruption=recipe.corruption)
        return recipe, self._kept_or_measured(recipe)

    def recipe(self, method: Method, offsets: Offsets | None = None, **changes: Any) -> Recipe:
        """Return a method's recipe with changes to it, of which None changes nothing.

        Estimator and corruption of the dataset-level method are those that `offsets` (None: the workbench's own)
        were measured by, or the recipe's where they don't say.

        Raises:
            CmrmError: a value that is none of the choices.
        """
        check_choice("method", method, Method)
        recipe = self.recipes[method]
        if method == "dataset":
            estimator, corruption = self._measured_by(offsets or self.offsets)
            recipe = replace(recipe, estimator=estimator, corruption=corruption)
        asked = {name: value for name, value in changes.items() if value is not None}
        for name, choices in (("estimator", Estimator), ("corruption", Corruption)):
            if name in asked:
                check_choice(name, asked[name], choices)
        if "alpha" in asked:
            (asked["alpha"],) = checked_alphas([asked["alpha"]])
        if "layers" in asked:
            asked["layers"] = checked_layers(asked["layers"], len(self.vlm.layers))
        return replace(recipe, **asked)

    def at_hand(self, method: Method, estimator: str, corruption: str, offsets: Offsets | None) -> Offsets | None:
        """Return the offsets to steer by, or None where a run measures them: of its prompt, or anew on the anchors.

        Raises:
            CmrmError: `offsets` of another model, or measured in another way than asked for.
        """
        if method == "sample":
            return None
        known = offsets or self.offsets
        known.check(self.vlm)
        made = self._measured_by(known)
        if made == (estimator, corruption):
            return known
        if offsets is not None:
            raise CmrmError(
                f"Your offsets were measured by the estimator {made[0]!r} with a {made[1]!r} image; choose these, or "
                "measure your offsets anew."
            )
        return None

    def _measured_by(self, offsets: Offsets) -> tuple[Any, Any]:
        """Return the estimator and the corruption of dataset-level offsets."""
        made, recipe = offsets.origin, self.recipes["dataset"]
        return made.estimator or recipe.estimator, made.corruption or recipe.corruption

    def _kept_or_measured(self, recipe: Recipe) -> Measuring:
        key = f"offsets {recipe.estimator} {recipe.corruption}"
        kept: Offsets | None = self.states.get(key)
        if kept is not None:
            yield kept
            return
        texts = load_anchors(recipe.anchors).texts
        for found in extracting(self.vlm, texts, estimator=recipe.estimator, corruption=recipe.corruption):
            if isinstance(found, Offsets):
                self.states.keep(key, found, found.values.nbytes)
            yield found

    def extracting(
        self, anchors: Sequence[str], *, estimator: Estimator | None = None, corruption: Corruption | None = None
    ) -> Generator[tuple[int, int] | Offsets]:
        """Measure dataset-level offsets as `extraction.extracting` does; None is the recipe's own choice.

        Raises:
            CmrmError: no anchors, or one that can't be used; at the first step.
        """
        recipe = self.recipes["dataset"]
        return extracting(
            self.vlm, anchors, estimator=estimator or recipe.estimator, corruption=corruption or recipe.corruption
        )

    def opened(self, path: str | Path) -> Offsets:
        """Read an offsets file to steer this model by.

        Raises:
            CmrmError: no offsets file, one of another model, or a vector that points against the model's own, as
                those of a negative alpha would.
        """
        offsets = Offsets.load(path)
        offsets.check(self.vlm)
        # Layer by layer: which of them steer is the visitor's choice.
        cosines = torch.cosine_similarity(offsets.values, self.offsets.values, dim=-1)
        if against := [f"{layer} (cosine {cosine:.2f})" for layer, cosine in enumerate(cosines) if cosine < 0]:
            raise CmrmError(
                f"The offsets point against the model's own at layer {', '.join(against)}, so steering by them would "
                "remove safety; extract them anew."
            )
        return offsets


@dataclass
class _Later:
    """A steering that is found after the request was checked, and before the first token."""

    found: Steering | None = None

    def delta(self, layer: int, state: torch.Tensor) -> torch.Tensor:
        assert self.found is not None
        return self.found.delta(layer, state)


def _followed(stream: Generator[Step], alone: Generator[Step]) -> Generator[Step]:
    """Add the one row of a second stream, which begins when the first has ended."""
    rows: tuple[Row, ...] = ()
    for step in stream:
        rows = step.rows
        yield replace(step, rows=(*rows, Row(0.0)), done=False)
    for step in alone:
        yield Step((*rows, *step.rows), step.done)


def _fits(offsets: Offsets, vlm: Vlm, anchors: AnchorSet, recipe: Recipe) -> bool:
    made = (offsets.origin.estimator, offsets.origin.corruption, offsets.origin.anchors_sha256)
    wanted = (recipe.estimator, recipe.corruption, anchors_digest(anchors.texts))
    return made == wanted and not offsets.check(vlm)


def _shipped(vlm: Vlm, anchors: AnchorSet, recipe: Recipe) -> Offsets | None:
    path = ASSETS / f"{vlm.identity.model}-offsets.safetensors"
    if not path.is_file():
        return None
    offsets = Offsets.load(path)
    return offsets if _fits(offsets, vlm, anchors, recipe) else None


def _cached(vlm: Vlm, anchors: AnchorSet, recipe: Recipe, progress: Progress | None) -> Offsets:
    key = "\0".join((vlm.identity.digest(), recipe.estimator, recipe.corruption, anchors_digest(anchors.texts)))
    path = cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
    if path.is_file():
        try:
            return Offsets.load(path)
        except CmrmError:
            with suppress(OSError):  # another process was faster, or the folder is read-only
                path.replace(path.with_suffix(".damaged"))
    offsets = extract_offsets(
        vlm, anchors.texts, estimator=recipe.estimator, corruption=recipe.corruption, progress=progress
    )
    try:
        offsets.save(path)
    except CmrmError as error:
        warnings.warn(f"{error} They are computed again at the next start.", CmrmWarning, stacklevel=2)
    return offsets
