"""Prompts read by the model in this process: their states at the last token, pass by pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import CmrmError
from ..model.hooks import hooked
from ..model.network import Hooks, Inputs
from ..model.vlm import Vlm
from ..progress import Told
from .steer import Reach, steer, steer_rows
from .vectors import Prompt, Steered, Vectors

BATCH = 16


@dataclass(frozen=True)
class LocalReading:
    """Prompts with their images, in batches of one shape, so that nothing is padded.

    What they begin with up to the end of the one image is read once: `shared` tokens, or none where
    there is no image or more than one, the template puts it behind the text, or the model can't split a prompt.
    """

    vlm: Vlm
    inputs: list[Inputs]
    shared: int
    groups: list[list[int]]

    @classmethod
    def of(cls, vlm: Vlm, prompts: Sequence[Prompt]) -> LocalReading:
        """Lay out prompts.

        Raises:
            CmrmError: no prompts, or one that can't be laid out.
        """
        if not prompts:
            raise CmrmError("There are no prompts, so there are no states to measure; give at least one text.")
        inputs: list[Inputs] = []
        for prompt in prompts:
            one, first = vlm.encode(prompt.text, prompt.image), inputs[0] if inputs else {}
            # The pixels of one image are held once, not once a prompt.
            inputs.append({k: first[k] if k in first and torch.equal(first[k], v) else v for k, v in one.items()})
        ids = [one["input_ids"][0].tolist() for one in inputs]
        by_shape: dict[tuple, list[int]] = defaultdict(list)
        for index, one in enumerate(inputs):
            by_shape[tuple((key, value.shape) for key, value in one.items())].append(index)
        groups = [same[k : k + BATCH] for same in by_shape.values() for k in range(0, len(same), BATCH)]
        shared = max(vlm.network.image_end(one, len(tokens)) for one, tokens in zip(inputs, ids, strict=True))
        same = (
            not vlm.network.plain_batch
            and all(prompt.image is prompts[0].image for prompt in prompts)
            and all(len(tokens) > shared and tokens[:shared] == ids[0][:shared] for tokens in ids)
        )
        return cls(vlm, inputs, shared if same else 0, groups)

    @property
    def passes(self) -> int:
        """How many forward passes one reading takes."""
        return len(self.groups)

    def states(self, steered: Steered | None, tell: Callable[[int], Told]) -> Generator[Told, None, np.ndarray]:
        """Do what `vectors.Reading` says."""
        network = self.vlm.network
        with network.enough_memory():
            prefix = network.read(self.inputs[0], self.shared)
            result = torch.zeros(len(self.inputs), self.vlm.identity.layers, self.vlm.identity.hidden)
            done = 0
            for group in self.groups:
                states = torch.zeros(len(group), *result.shape[1:])
                hooks, gaps = self._steer(steered, group)
                watch = recording(self.vlm, states, hooks)
                network.forward(self._rest(group), prefix.fan_out(len(group)), watch, independent=False)
                result[group] = states if gaps is None else gaps
                done += len(group)
                yield tell(done)
        return result.numpy()

    def _steer(self, steered: Steered | None, group: list[int]) -> tuple[Hooks, torch.Tensor | None]:
        """Return what steers a group, and where the gaps are noted if it reaches for states."""
        chosen = steered and steered.pick(group)
        if chosen is None or (vectors := _list_vectors(chosen.vectors))[0].mode != "reach":
            return steer_rows(self.vlm, chosen), None
        gaps = torch.zeros(len(vectors), *vectors[0].values.shape)
        shift = Reach(torch.stack([torch.from_numpy(one.values) for one in vectors]), gaps)
        return steer(self.vlm, shift, chosen.alpha, layers=chosen.layers), gaps

    def _rest(self, group: list[int]) -> Inputs:
        """What the prefix leaves to run: the last tokens, or all inputs where there is no prefix."""
        chosen = [self.inputs[index] for index in group]
        if self.shared:
            return {"input_ids": torch.cat([one["input_ids"][:, self.shared :] for one in chosen])}
        return {key: torch.cat([one[key] for one in chosen]) for key in chosen[0]}


def _list_vectors(vectors: Vectors | Sequence[Vectors]) -> Sequence[Vectors]:
    return [vectors] if isinstance(vectors, Vectors) else vectors


@contextmanager
def recording(vlm: Vlm, states: torch.Tensor, steering: Hooks) -> Iterator[None]:
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
