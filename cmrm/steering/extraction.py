"""Anchors in, offsets out: text-only minus corrupted-image states at the last prompt token."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import torch
from PIL import Image

from ..errors import CmrmError
from ..model.hooks import hooked
from ..model.network import forward, image_end, read
from ..model.vlm import Inputs, Vlm
from ..settings import Corruption, Estimator, check_choice
from ..versions import versions
from .offsets import Offsets
from .offsets_file import Origin
from .steer import steer

Progress = Callable[[int, int], None]

Measuring = Iterable[tuple[int, int] | Offsets]
"""Passes done and in all after each forward pass, the offsets last."""

MEASURING = "Measuring offsets, pass {} of {} ..."

Reading = Generator[tuple[int, torch.Tensor]]
"""After each forward pass how many prompts have been read, and the states so far, `(prompts, layers, hidden)`."""

Hooks = Callable[[Sequence[int]], AbstractContextManager[None]]
"""Makes the hooks that are on while the prompts of these indices run in one batch."""

BATCH = 16


def extract_offsets(
    vlm: Vlm,
    anchors: Sequence[str],
    *,
    estimator: Estimator = "sequential",
    corruption: Corruption = "white",
    progress: Progress | None = None,
) -> Offsets:
    """Measure the dataset-level offsets of an anchor set (arXiv 2410.09047, section on CMRM).

    With h_t the layer outputs at the last prompt token of a text alone, and h_c those of the text with
    a corrupted image, per layer:
      mean        the mean of h_t - h_c over the anchors
      pc1         the first principal component of h_t - h_c, oriented along the mean, as long as the
                  mean absolute projection on it
      sequential  the mean of h_t - h_c where h_c is taken with the layers below already steered, so
                  that shifts added at all layers do not add up
    `progress(done, total)` is told of each pass.

    Raises:
        CmrmError: no anchors, an empty anchor, an unknown estimator or corruption, pc1 of one anchor.
    """
    for found in extracting(vlm, anchors, estimator=estimator, corruption=corruption):
        if isinstance(found, Offsets):
            return found
        if progress:
            progress(*found)
    raise AssertionError("no offsets")


def extracting(
    vlm: Vlm, anchors: Sequence[str], *, estimator: Estimator = "sequential", corruption: Corruption = "white"
) -> Generator[tuple[int, int] | Offsets]:
    """Do what `extract_offsets` does as a stream: (done, total) after each pass, the offsets last; close it to stop.

    Raises:
        CmrmError: as `extract_offsets`, at the first step.
    """
    check_choice("estimator", estimator, Estimator)
    if isinstance(anchors, str) or not anchors:
        raise CmrmError("The anchor set is empty, so there is nothing to measure; give at least one text.")
    target = _Batches.of(vlm, anchors, [None] * len(anchors))
    source = _Batches.of(vlm, anchors, [vlm.corrupted(corruption)] * len(anchors))
    ahead = len(target.groups)
    repeats = 1 if estimator != "sequential" or len(source.groups) == 1 else len(vlm.layers)
    total = ahead + repeats * len(source.groups)
    for done, (_, states) in enumerate(target.states(), 1):
        texts = states
        yield done, total
    measured = _sequential(source, texts) if estimator == "sequential" else _gaps(source, texts)
    for done, found in enumerate(measured, ahead + 1):
        values = found
        yield done, total
    if estimator != "sequential":
        values = ESTIMATORS[estimator](values)
    yield Offsets(values, vlm.identity, _origin(anchors, estimator, corruption))


def prompt_offsets(
    vlm: Vlm, prompt: str, *, estimator: Estimator = "sequential", corruption: Corruption = "white"
) -> Offsets:
    """Measure the sample-level offsets: h_t - h_c of this very prompt (`extract_offsets` of one text)."""
    return extract_offsets(vlm, [prompt], estimator=estimator, corruption=corruption)


def many_prompt_offsets(
    vlm: Vlm, prompts: Sequence[str], *, estimator: Estimator = "sequential", corruption: Corruption = "white"
) -> list[Offsets]:
    """Measure the sample-level offsets of many prompts in shared batches: `prompt_offsets` of each, in order.

    With the sequential estimator each row's own gap is closed while its pass runs.

    Raises:
        CmrmError: no prompts, one that can't be encoded, an unknown corruption, pc1 or an unknown estimator.
    """
    check_choice("estimator", estimator, Estimator)
    blanks = [vlm.corrupted(corruption)] * len(prompts)
    texts = last_states(vlm, prompts, [None] * len(prompts))
    values = torch.zeros_like(texts)
    if estimator == "sequential":
        last_states(vlm, prompts, blanks, lambda group: steer(vlm, _RunningGap(texts, values, group), 1.0))
    else:
        gaps = texts - last_states(vlm, prompts, blanks)
        values = torch.stack([ESTIMATORS[estimator](gap[None]) for gap in gaps])
    made = _origin(prompts[:1], estimator, corruption)
    return [
        Offsets(value, vlm.identity, replace(made, anchors_sha256=anchors_digest([prompt])))
        for prompt, value in zip(prompts, values, strict=True)
    ]


def last_states(
    vlm: Vlm, prompts: Sequence[str], images: Sequence[Image.Image | None], hooks: Hooks | None = None
) -> torch.Tensor:
    """Return the layer outputs at the last prompt token, float32 `(prompts, layers, hidden)` on the CPU.

    `images` has one picture, or None, a prompt; one picture for all is read once. `hooks` may steer the
    passes: states are taken after it.

    Raises:
        CmrmError: no prompts, or one that can't be encoded.
    """
    *_, (_, states) = reading(vlm, prompts, images, hooks)
    return states


def reading(
    vlm: Vlm, prompts: Sequence[str], images: Sequence[Image.Image | None], hooks: Hooks | None = None
) -> Reading:
    """Do what `last_states` does as a stream, pass by pass; close it to stop.

    Raises:
        CmrmError: as `last_states`.
    """
    if not prompts:
        raise CmrmError("There are no prompts, so there are no states to measure; give at least one text.")
    return _Batches.of(vlm, prompts, images).states(hooks)


def anchors_digest(anchors: Sequence[str]) -> str:
    """Return the SHA-256 that names an anchor set: its texts in order."""
    return hashlib.sha256("\0".join(anchors).encode()).hexdigest()


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


ESTIMATORS = {"mean": _mean, "pc1": _first_component}


def _gaps(source: "_Batches", texts: torch.Tensor, hooks: Hooks | None = None) -> Iterator[torch.Tensor]:
    """Yield h_t - h_c `(anchors, layers, hidden)` after each pass, whole after the last."""
    return (texts - states for _, states in source.states(hooks))


def _sequential(source: "_Batches", texts: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the vectors `(layers, hidden)` after each pass, filled in as the layers below are steered by theirs."""
    vlm, values = source.vlm, torch.zeros(texts.shape[1:])
    if len(source.groups) == 1:  # each layer's gap is known when the pass gets there
        running = _RunningGap(texts.mean(dim=0, keepdim=True), values[None], [0])
        yield from (values for _ in source.states(lambda _: steer(vlm, running, 1.0)))
        return
    below = Offsets(values, vlm.identity)  # zero where nothing has been measured yet
    for layer in range(len(values)):
        for gaps in _gaps(source, texts, lambda _: steer(vlm, below, 1.0)):
            mean = gaps[:, layer].mean(dim=0)
            yield values
        values[layer] = mean


@dataclass(frozen=True)
class _RunningGap:
    """Closes the gap to `rows` of `targets` while a pass runs, layer by layer, and keeps it in those of `values`.

    Both are `(prompts, layers, hidden)`. One row stands for the mean of the batch, as many for each by itself.
    """

    targets: torch.Tensor
    values: torch.Tensor
    rows: Sequence[int]

    def delta(self, layer: int, state: torch.Tensor) -> torch.Tensor:
        states = state[:, -1].float().cpu()
        if len(self.rows) == 1:
            states = states.mean(dim=0, keepdim=True)
        gaps = self.targets[self.rows, layer] - states
        self.values[self.rows, layer] = gaps
        return gaps[:, None].to(state.device)


@dataclass(frozen=True)
class _Batches:
    """Prompts with their images, in batches of one shape, so that nothing is padded.

    What they begin with up to the end of the one image is read once: `shared` tokens, or none where
    there is no image or more than one, the template puts it behind the text, or the model can't split a prompt.
    """

    vlm: Vlm
    inputs: list[Inputs]
    shared: int
    groups: list[list[int]]

    @classmethod
    def of(cls, vlm: Vlm, prompts: Sequence[str], images: Sequence[Image.Image | None]) -> "_Batches":
        inputs: list[Inputs] = []
        for prompt, image in zip(prompts, images, strict=True):
            one, first = vlm.encode(prompt, image), inputs[0] if inputs else {}
            # The pixels of one image are held once, not once a prompt.
            inputs.append({k: first[k] if k in first and torch.equal(first[k], v) else v for k, v in one.items()})
        ids = [one["input_ids"][0].tolist() for one in inputs]
        by_shape: dict[tuple, list[int]] = defaultdict(list)
        for index, one in enumerate(inputs):
            by_shape[tuple((key, value.shape) for key, value in one.items())].append(index)
        groups = [same[k : k + BATCH] for same in by_shape.values() for k in range(0, len(same), BATCH)]
        shared = max(image_end(vlm, one, len(tokens)) for one, tokens in zip(inputs, ids, strict=True))
        same = (
            not vlm.plain_batch
            and all(image is images[0] for image in images)
            and all(len(tokens) > shared and tokens[:shared] == ids[0][:shared] for tokens in ids)
        )
        return cls(vlm, inputs, shared if same else 0, groups)

    def states(self, hooks: Hooks | None = None) -> Reading:
        """Measure the layer outputs at the last position."""
        with self.vlm.enough_memory():
            prefix = read(self.vlm, self.inputs[0], self.shared)
            result = torch.zeros(len(self.inputs), self.vlm.identity.layers, self.vlm.identity.hidden)
            done = 0
            for group in self.groups:
                states = torch.zeros(len(group), *result.shape[1:])
                hooked_up = recording(self.vlm, states, hooks(group) if hooks else nullcontext())
                forward(self.vlm, self._rest(group), prefix.fan_out(len(group)), hooked_up, independent=False)
                result[group] = states
                done += len(group)
                yield done, result

    def _rest(self, group: list[int]) -> Inputs:
        """What the prefix leaves to run: the last tokens, or all inputs where there is no prefix."""
        chosen = [self.inputs[index] for index in group]
        if self.shared:
            return {"input_ids": torch.cat([one["input_ids"][:, self.shared :] for one in chosen])}
        return {key: torch.cat([one[key] for one in chosen]) for key in chosen[0]}


@contextmanager
def recording(vlm: Vlm, states: torch.Tensor, steering: AbstractContextManager[None]) -> Iterator[None]:
    """Write each layer's last position, as `steering` left it, into `states`, float32 `(rows, layers, hidden)`.

    Raises:
        CmrmError: a layer that did not run, or whose output is not one state a row and position.
    """
    left = set(range(len(vlm.layers)))

    def edit(layer: int, hidden: torch.Tensor) -> None:
        if hidden.dim() != 3 or (hidden.shape[0], hidden.shape[2]) != (states.shape[0], states.shape[2]):
            raise CmrmError(
                f"Decoder layer {layer} of {vlm.identity.architecture} puts out {tuple(hidden.shape)}, not a state of "
                f"width {states.shape[2]} a row and position, so the model can't be steered; use another VLM."
            )
        left.discard(layer)
        states[:, layer] = hidden[:, -1].float().cpu()

    with steering, hooked(dict(enumerate(vlm.layers)), edit):
        yield
    if left:
        raise CmrmError(
            f"Decoder layers {sorted(left)} of {vlm.identity.architecture} did not run on a prompt (they may need an "
            "image), so there is nothing to measure there; use another VLM."
        )


def _origin(anchors: Sequence[str], estimator: str, corruption: str) -> Origin:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Origin(estimator, corruption, len(anchors), anchors_digest(anchors), now, versions())
