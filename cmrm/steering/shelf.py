"""Dataset-level offsets of a model by its recipe: shipped, cached, or measured now and cached."""

import hashlib
import warnings
from collections.abc import Callable
from contextlib import suppress

from ..errors import CmrmError, CmrmWarning
from ..files import ASSETS, cache_folder
from ..progress import Progress
from .anchors import AnchorSet
from .extraction import anchors_digest, extract_offsets
from .offsets import Offsets
from .recipes import Recipe
from .vectors import Reader


def find_or_measure(
    reader: Reader, anchors: AnchorSet, recipe: Recipe, report: Callable[[Progress], None] | None = None
) -> Offsets:
    """Return the offsets that ship with the model, or cached ones, or else measure and cache them.

    Raises:
        CmrmError: anchors that can't be measured.
    """
    return _find_shipped(reader, anchors, recipe) or _find_cached(reader, anchors, recipe, report)


def _find_shipped(reader: Reader, anchors: AnchorSet, recipe: Recipe) -> Offsets | None:
    path = ASSETS / f"{reader.identity.model}-offsets.safetensors"
    if not path.is_file():
        return None
    offsets = Offsets.load(path)
    made = (offsets.origin.estimator, offsets.origin.corruption, offsets.origin.anchors_sha256)
    wanted = (recipe.estimator, recipe.corruption, anchors_digest(anchors.texts))
    return offsets if made == wanted and not offsets.check(reader.identity) else None


def _find_cached(
    reader: Reader, anchors: AnchorSet, recipe: Recipe, report: Callable[[Progress], None] | None
) -> Offsets:
    key = "\0".join((reader.identity.digest(), recipe.estimator, recipe.corruption, anchors_digest(anchors.texts)))
    path = cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
    if path.is_file():
        try:
            return Offsets.load(path)
        except CmrmError:
            with suppress(OSError):  # another process was faster, or the folder is read-only
                path.replace(path.with_suffix(".damaged"))
    offsets = extract_offsets(
        reader, anchors.texts, estimator=recipe.estimator, corruption=recipe.corruption, report=report
    )
    try:
        offsets.save(path)
    except CmrmError as error:
        warnings.warn(f"{error} They are computed again at the next start.", CmrmWarning, stacklevel=2)
    return offsets
