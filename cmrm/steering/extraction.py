"""Anchors in, offsets out: text-only minus corrupted-image states at the last prompt token."""

import hashlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import torch

from ..errors import CmrmError
from ..progress import Progress, Told, finish
from ..settings import Corruption, Estimator, check_choice
from ..versions import versions
from .offsets import Offsets
from .offsets_file import Origin
from .vectors import Prompt, Reader, Steered, Vectors


def extract_offsets(
    reader: Reader,
    anchors: Sequence[str],
    *,
    estimator: Estimator = "sequential",
    corruption: Corruption = "white",
    report: Callable[[Progress], None] | None = None,
) -> Offsets:
    """Measure the dataset-level offsets of an anchor set (arXiv 2410.09047, section on CMRM).

    With h_t the layer outputs at the last prompt token of a text alone, and h_c those of the text with
    a corrupted image, per layer:
      mean        the mean of h_t - h_c over the anchors
      pc1         the first principal component of h_t - h_c, oriented along the mean, as long as the
                  mean absolute projection on it
      sequential  the mean of h_t - h_c where h_c is taken with the layers below already steered, so
                  that shifts added at all layers do not add up
    `report` is told of each pass. Of one text they are the sample-level offsets.

    Raises:
        CmrmError: no anchors, an empty anchor, an unknown estimator or corruption, pc1 of one anchor.
    """
    return finish(extract(reader, anchors, estimator, corruption, lambda one: one), report)


def extract(
    reader: Reader,
    anchors: Sequence[str],
    estimator: Estimator,
    corruption: Corruption,
    tell: Callable[[Progress], Told],
) -> Generator[Told, None, Offsets]:
    """Do what `extract_offsets` does as a stream that returns the offsets; close it to stop.

    Yields after each pass what `tell` makes of the progress.

    Raises:
        CmrmError: as `extract_offsets`, at the first step.
    """
    check_choice("estimator", estimator, Estimator)
    if isinstance(anchors, str) or not anchors:
        raise CmrmError("The anchor set is empty, so there is nothing to measure; give at least one text.")
    # 1. Lay out every anchor alone and beside the meaningless image.
    alone = reader.reading([Prompt(text) for text in anchors])
    blank = reader.blank(corruption)
    beside = reader.reading([Prompt(text, blank) for text in anchors])
    layers = reader.identity.layers
    repeats = 1 if estimator != "sequential" or beside.passes == 1 else layers
    total = alone.passes + repeats * beside.passes
    # 2. Read the texts alone: where states are to be pulled to.
    texts = torch.from_numpy((yield from alone.states(None, _count(tell, 0, total))))
    # 3. Read them beside the image, and estimate what is missing.
    done = alone.passes
    if estimator != "sequential":
        states = yield from beside.states(None, _count(tell, done, total))
        values = _COMBINE[estimator](texts - torch.from_numpy(states))
    elif repeats == 1:  # each layer's gap is known when the pass gets there
        target = Vectors(texts.mean(dim=0).numpy(), "reach")
        gaps = yield from beside.states(Steered(target), _count(tell, done, total))
        values = torch.from_numpy(gaps[0])
    else:
        values = torch.zeros(texts.shape[1:])
        for layer in range(layers):  # zero where nothing has been measured yet
            below = Steered(Vectors(values.numpy()))
            states = yield from beside.states(below, _count(tell, done, total))
            values[layer] = (texts - torch.from_numpy(states))[:, layer].mean(dim=0)
            done += beside.passes
    return Offsets(values.numpy(), fits=reader.identity, origin=_origin(anchors, estimator, corruption))


def extract_each(
    reader: Reader, prompts: Sequence[str], *, estimator: Estimator = "sequential", corruption: Corruption = "white"
) -> list[Offsets]:
    """Measure the sample-level offsets of many prompts in shared batches: `extract_offsets` of each, in order.

    With the sequential estimator each row's own gap is closed while its pass runs.

    Raises:
        CmrmError: no prompts, one that can't be encoded, an unknown corruption, pc1 or an unknown estimator.
    """
    check_choice("estimator", estimator, Estimator)
    blank = reader.blank(corruption)
    beside = [Prompt(prompt, blank) for prompt in prompts]
    texts = read_states(reader, [Prompt(prompt) for prompt in prompts])
    if estimator == "sequential":
        values = read_states(reader, beside, Steered([Vectors(text, "reach") for text in texts]))
    else:
        gaps = torch.from_numpy(texts - read_states(reader, beside))
        values = torch.stack([_COMBINE[estimator](gap[None]) for gap in gaps]).numpy()
    made = _origin(prompts[:1], estimator, corruption)
    return [
        Offsets(value, fits=reader.identity, origin=replace(made, anchors_sha256=anchors_digest([prompt])))
        for prompt, value in zip(prompts, values, strict=True)
    ]


def read_states(reader: Reader, prompts: Sequence[Prompt], steered: Steered | None = None) -> np.ndarray:
    """Return the layer outputs at the last prompt token, float32 `(prompts, layers, hidden)`.

    Raises:
        CmrmError: no prompts, or one that can't be encoded.
    """
    return finish(reader.reading(prompts).states(steered, int))


def anchors_digest(anchors: Sequence[str]) -> str:
    """Return the SHA-256 that names an anchor set: its texts in order."""
    return hashlib.sha256("\0".join(anchors).encode()).hexdigest()


def _count(tell: Callable[[Progress], Told], done: int, total: int) -> Callable[[int], Told]:
    """Return what tells of a reading's passes, `done` having gone before; one that is not over is no pass."""
    seen = {0}

    def count(read: int) -> Told:
        seen.add(read)
        return tell(Progress("measuring", done + len(seen) - 1, total))

    return count


def _mean(differences: torch.Tensor) -> torch.Tensor:
    return differences.mean(dim=0)


def _first_component(differences: torch.Tensor) -> torch.Tensor:
    if len(differences) < 2:
        raise CmrmError('The estimator "pc1" needs at least two texts to differ from each other; choose another.')
    return torch.stack([_oriented_component(layer) for layer in differences.unbind(dim=1)])


def _oriented_component(rows: torch.Tensor) -> torch.Tensor:
    """PC1 of `(anchors, hidden)`: SVD leaves its sign open and its norm 1, so both come from the rows."""
    mean = rows.mean(dim=0)
    direction = torch.linalg.svd(rows - mean, full_matrices=False).Vh[0]
    if direction @ mean < 0:
        direction = -direction
    return direction * (rows @ direction).abs().mean()


_COMBINE = {"mean": _mean, "pc1": _first_component}


def _origin(anchors: Sequence[str], estimator: str, corruption: str) -> Origin:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Origin(estimator, corruption, len(anchors), anchors_digest(anchors), now, versions())
