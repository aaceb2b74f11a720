"""A model with its recipes and dataset-level offsets: what the page, the API and the CLI ask."""

import hashlib
import warnings
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from .anchors import AnchorSet, load_anchors
from .comparison import Step, compare
from .errors import CmrmError, CmrmWarning
from .extraction import Progress, anchors_digest, extract_offsets, prompt_offsets
from .kept import Kept
from .model import Vlm
from .offsets import Offsets
from .options import DeviceMap, Method, Quantization, check_choice, checked_alphas
from .paths import ASSETS, cache_folder
from .recipes import Recipe, recipes_for
from .why import Explanation, explaining

_STATES_LIMIT = 1 << 28


@dataclass(frozen=True)
class Workbench:
    """One shared model, ready to compare by either method.

    `offsets` are the dataset-level ones and `anchors` names the set they come from; `notes` are
    sentences a user should see, such as layers left unquantized or offsets made for another revision.
    `states` keeps what was measured on anchors to explain answers.
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
    ) -> Generator[Step]:
        """Answer unsteered (row 0) and steered (row 1) by a method's recipe; alpha None is the recipe's.

        Raises:
            CmrmError: bad input, before the first step.
        """
        return self._answers(
            image,
            prompt,
            method,
            None if alpha is None else checked_alphas(alpha),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )

    def sweep(
        self,
        image: Image.Image | str | Path | None,
        prompt: str,
        alphas: Sequence[float],
        *,
        method: Method = "dataset",
        max_new_tokens: int = 128,
    ) -> Generator[Step]:
        """Answer greedily at alpha 0 (row 0) and at each other of `alphas`, in one batch; the last step has fluency.

        Raises:
            CmrmError: bad input, before the first step.
        """
        chosen = tuple(alpha for alpha in checked_alphas(alphas) if alpha)
        return self._answers(image, prompt, method, chosen, max_new_tokens=max_new_tokens, fluency=True)

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
        alphas: tuple[float, ...] | None,
        **options: Any,
    ) -> Generator[Step]:
        """Compare by a method's recipe; alphas None is its own one."""
        check_choice("method", method, Method)
        recipe = self.recipes[method]
        return compare(
            self.vlm,
            image,
            prompt,
            self.steering(method, prompt),
            checked_alphas(recipe.alpha) if alphas is None else alphas,
            layers=recipe.layers,
            steps=recipe.steps,
            **options,
        )

    def steering(self, method: Method, prompt: str) -> Offsets:
        """Return the dataset-level offsets, or measure the sample-level ones of `prompt`."""
        if method == "dataset":
            return self.offsets
        recipe = self.recipes["sample"]
        return prompt_offsets(self.vlm, prompt, estimator=recipe.estimator, corruption=recipe.corruption)


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
