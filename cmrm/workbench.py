"""A model with its recipes and dataset-level offsets: what the page, the API and the CLI ask."""

import hashlib
import warnings
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .anchors import AnchorSet, load_anchors
from .comparison import Row, Step, compare
from .errors import CmrmError, CmrmWarning
from .extraction import Progress, anchors_digest, extract_offsets, extracting
from .kept import Kept
from .methods.controls import random_direction
from .model import Vlm
from .offsets import Offsets
from .options import (
    Corruption,
    DeviceMap,
    Estimator,
    Method,
    Positions,
    Quantization,
    Steps,
    Third,
    check_choice,
    checked_alphas,
    checked_layers,
)
from .paths import ASSETS, cache_folder
from .recipes import Recipe, recipes_for
from .steering import PerRow, Steering
from .why import Explanation, explaining

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
        image: Image.Image | str | Path | None,
        prompt: str,
        *,
        alpha: float | None = None,
        method: Method = "dataset",
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        seed: int = 0,
        top_p: float = 1.0,
        estimator: Estimator | None = None,
        corruption: Corruption | None = None,
        layers: Sequence[int] | None = None,
        positions: Positions | None = None,
        steps: Steps | None = None,
        third: Third = "none",
        offsets: Offsets | None = None,
    ) -> Generator[Step]:
        """Answer unsteered (row 0) and steered (row 1) by a method's recipe; what is None is the recipe's.

        `third` adds row 2: "random", steered by random vectors as long as the offsets (drawn by `seed`), in the
        same batch; or "text", the unsteered answer to the prompt alone, behind the others. `offsets`, if given,
        take the place of the dataset-level ones. Another estimator or corruption than theirs is measured on the
        recipe's anchors first, as steps with a note, and kept.

        Raises:
            CmrmError: bad input, before the first step.
        """
        recipe = self.recipe(
            method,
            offsets,
            alpha=alpha,
            estimator=estimator,
            corruption=corruption,
            layers=layers,
            positions=positions,
            steps=steps,
        )
        check_choice("third", third, Third)
        chosen: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
        }
        beside = seed if third == "random" else None
        stream = self._answers(image, prompt, method, recipe, (recipe.alpha,), offsets, beside, **chosen)
        return _followed(stream, compare(self.vlm, None, prompt, None, (), **chosen)) if third == "text" else stream

    def sweep(
        self,
        image: Image.Image | str | Path | None,
        prompt: str,
        alphas: Sequence[float],
        *,
        method: Method = "dataset",
        max_new_tokens: int = 128,
        offsets: Offsets | None = None,
    ) -> Generator[Step]:
        """Answer greedily at alpha 0 (row 0) and at each other of `alphas`, in one batch; the last step has fluency.

        `offsets`, if given, take the place of the dataset-level ones.

        Raises:
            CmrmError: bad input, before the first step.
        """
        chosen = tuple(alpha for alpha in checked_alphas(alphas) if alpha)
        recipe = self.recipe(method, offsets)
        return self._answers(
            image, prompt, method, recipe, chosen, offsets, max_new_tokens=max_new_tokens, fluency=True
        )

    def explain(
        self, image: Image.Image | str | Path | None, prompt: str, **options: Any
    ) -> Generator[str | Explanation]:
        """Say why the answers differ, as `why.explaining` does: sentences on the progress, then the explanation.

        Raises:
            CmrmError: bad input, before the first sentence.
        """
        return explaining(self, image, prompt, **options)

    def _answers(
        self,
        image: Image.Image | str | Path | None,
        prompt: str,
        method: Method,
        recipe: Recipe,
        alphas: tuple[float, ...],
        offsets: Offsets | None,
        beside: int | None = None,
        **options: Any,
    ) -> Generator[Step]:
        """Check the request, then measure what it is steered by, then answer.

        `beside` is the seed of a row steered by random vectors, behind that of the one alpha.
        """
        alphas = alphas if beside is None else alphas * 2
        measuring, steering = self.measuring(method, prompt, recipe, offsets), _Later()
        stream = compare(
            self.vlm,
            image,
            prompt,
            steering,
            alphas,
            layers=recipe.layers,
            positions=recipe.positions,
            steps=recipe.steps,
            **options,
        )
        return _steered(stream, steering, measuring, (0.0, *alphas), beside)

    def recipe(self, method: Method, offsets: Offsets | None = None, **changes: Any) -> Recipe:
        """Return a method's recipe with changes to it, of which None changes nothing.

        Estimator and corruption of the dataset-level method are those that `offsets` (None: the workbench's own)
        were measured by.

        Raises:
            CmrmError: a value that is none of the choices.
        """
        check_choice("method", method, Method)
        origin = (offsets or self.offsets).origin
        made: dict[str, Any] = {"estimator": origin.estimator, "corruption": origin.corruption}
        recipe = replace(self.recipes[method], **made if method == "dataset" else {})
        asked = {name: value for name, value in changes.items() if value is not None}
        for name, choices in (("estimator", Estimator), ("corruption", Corruption)):
            if name in asked:
                check_choice(name, asked[name], choices)
        if "alpha" in asked:
            (asked["alpha"],) = checked_alphas([asked["alpha"]])
        if "layers" in asked:
            asked["layers"] = checked_layers(asked["layers"], len(self.vlm.layers))
        return replace(recipe, **asked)

    def measuring(
        self, method: Method, prompt: str, recipe: Recipe, offsets: Offsets | None = None
    ) -> Iterable[tuple[int, int] | Offsets]:
        """Stream what `recipe` steers by, as `extracting` does: what is known comes at once.

        Raises:
            CmrmError: `offsets` of another model, or measured in another way than the recipe asks for.
        """
        if method == "sample":
            return extracting(self.vlm, [prompt], estimator=recipe.estimator, corruption=recipe.corruption)
        known = offsets or self.offsets
        known.check(self.vlm)
        if (known.origin.estimator, known.origin.corruption) == (recipe.estimator, recipe.corruption):
            return [known]
        if offsets is not None:
            raise CmrmError(
                f"Your offsets were measured by the estimator {known.origin.estimator!r} with a "
                f"{known.origin.corruption!r} image; choose these, or measure your offsets anew."
            )
        return self._kept_or_measured(recipe)

    def _kept_or_measured(self, recipe: Recipe) -> Generator[tuple[int, int] | Offsets]:
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


def _steered(
    stream: Generator[Step],
    steering: _Later,
    measuring: Iterable[tuple[int, int] | Offsets],
    alphas: tuple[float, ...],
    beside: int | None,
) -> Generator[Step]:
    for found in measuring:
        if isinstance(found, Offsets):
            steering.found = found if beside is None else PerRow([found, found, random_direction(found, beside)])
        else:
            note = "Measuring offsets, pass {} of {} ...".format(*found)
            yield Step(tuple(map(Row, alphas)), note=note)
    yield from stream


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
