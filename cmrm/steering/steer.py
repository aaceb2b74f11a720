"""Add alpha x delta to the hidden states of decoder layers: the one path of every method in this process."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch

from ..errors import CmrmError
from ..model.hooks import hooked
from ..model.network import Hooks
from ..model.vlm import Vlm
from ..settings import Positions, Steps, check_choice, checked_alphas, checked_layers
from .vectors import Steered, Vectors


class Steering(Protocol):
    """What to add, apart from how much (alpha) and where (layers, positions, steps): for methods that are code."""

    def delta(self, layer: int, state: torch.Tensor) -> torch.Tensor:
        """Return the shift of `state`, `(rows, positions, hidden)` in the model's dtype, or what broadcasts to it.

        Shifts are best computed and returned in float32, in which they are added.
        """
        ...


def steer(
    vlm: Vlm,
    steering: Steering | Vectors | Sequence[Vectors],
    alpha: float | Sequence[float],
    *,
    layers: Iterable[int] | None = None,
    positions: Positions = "last",
    steps: Steps = "prompt",
) -> Hooks:
    """Steer every forward pass of `vlm.model` inside the block: h*_l = h_l + alpha delta_l(h_l).

    `steering` is code or vectors, a sequence of them one per row. `alpha` is one number or one per row of the batch,
    finite and in [0, 2]; a row of alpha 0 keeps its bits. `layers` are decoder layer indices (default: all).
    `positions` "last" shifts the last position of a pass, "all" each of them. `steps` "prompt" shifts only passes over
    the prompt: the first pass in the block, and each later one of more than one position; "all" shifts each decode
    step too. The sum is done in float32 on the layer's device and cast back. The sign is the one of
    Eqs. 3-5 of arXiv 2410.09047: towards text.

    Raises:
        CmrmError: a value out of range; in the block, a batch with another number of rows.
    """
    alphas = checked_alphas(alpha)
    chosen = checked_layers(layers, len(vlm.layers))
    check_choice("positions", positions, Positions)
    check_choice("steps", steps, Steps)
    shift = as_steering(steering)
    where = slice(None) if positions == "all" else slice(-1, None)
    passes = dict.fromkeys(chosen, 0)
    strengths: dict[tuple[torch.device, int], _Strength] = {}  # made once, as each decode step passes every layer

    def edit(layer: int, hidden: torch.Tensor) -> torch.Tensor | None:
        passes[layer] += 1
        if steps == "prompt" and passes[layer] > 1 and hidden.shape[1] == 1:
            return None
        key = (hidden.device, len(hidden))
        if key not in strengths:
            strengths[key] = _Strength.of(alphas, hidden)
        return strengths[key].shift(hidden, shift, layer, where)

    return hooked({index: vlm.layers[index] for index in chosen}, edit)


def steer_rows(vlm: Vlm, steered: Steered | None) -> Hooks:
    """Steer the rows of a batch as data says."""
    if steered is None:
        return nullcontext()
    where = {"layers": steered.layers, "positions": steered.positions, "steps": steered.steps}
    return steer(vlm, steered.vectors, steered.alpha, **where)  # type: ignore[arg-type]  # each of its own type


def as_steering(steering: Steering | Vectors | Sequence[Vectors]) -> Steering:
    """Return the code that does what vectors say; code stays as it is."""
    if isinstance(steering, Sequence):
        return _PerRow(tuple(map(_of_vectors, steering)))
    return _of_vectors(steering) if isinstance(steering, Vectors) else steering


def _of_vectors(vectors: Vectors) -> Steering:
    values = torch.from_numpy(vectors.values)
    if vectors.mode == "reach":
        return Reach(values[None])
    if vectors.levels is not None:
        return _Project(values, torch.from_numpy(vectors.levels))
    return _Add(values)


@dataclass(frozen=True)
class _Add:
    """The same vector whatever the state: `values` `(layers, hidden)`."""

    values: torch.Tensor

    def delta(self, layer: int, state: torch.Tensor) -> torch.Tensor:
        return self.values[layer].to(state.device)


@dataclass(frozen=True)
class _Project:
    """Brings the projection on `units` `(layers, hidden)` to `levels` `(layers,)`."""

    units: torch.Tensor
    levels: torch.Tensor

    def delta(self, layer: int, state: torch.Tensor) -> torch.Tensor:
        unit = self.units[layer].to(state.device)
        return (self.levels[layer].to(state.device) - state.float() @ unit)[..., None] * unit


@dataclass(frozen=True)
class Reach:
    """Closes the gap to `targets` `(rows, layers, hidden)` while a pass runs, layer by layer.

    One row of targets is for the mean of the batch. The gaps before are noted in `gaps`, of the same shape, if given.
    """

    targets: torch.Tensor
    gaps: torch.Tensor | None = None

    def delta(self, layer: int, state: torch.Tensor) -> torch.Tensor:
        """Return what is left to the targets, float32 `(rows, 1, hidden)`, at the last position."""
        states = state[:, -1].float().cpu()
        if len(self.targets) == 1:
            states = states.mean(dim=0, keepdim=True)
        gaps = self.targets[:, layer] - states
        if self.gaps is not None:
            self.gaps[:, layer] = gaps
        return gaps[:, None].to(state.device)


@dataclass(frozen=True)
class _PerRow:
    """One steering a row, so that several methods answer in one batch."""

    rows: Sequence[Steering]

    def delta(self, layer: int, state: torch.Tensor) -> torch.Tensor:
        shifts = [row.delta(layer, state[k : k + 1]) for k, row in enumerate(self.rows)]
        return torch.cat([shift.expand_as(state[:1]) for shift in shifts])


@dataclass(frozen=True)
class _Strength:
    """Alpha on a device, float32 `(rows or 1, 1, 1)`, and which rows have none, if any."""

    alpha: torch.Tensor
    none: torch.Tensor | None

    @classmethod
    def of(cls, alphas: tuple[float, ...], hidden: torch.Tensor) -> "_Strength":
        if len(alphas) not in (1, len(hidden)):
            raise CmrmError(
                f"{len(alphas)} alphas were given for a batch of {len(hidden)} rows; give one number, or one per row."
            )
        alpha = torch.tensor(alphas, device=hidden.device).view(-1, 1, 1)
        return cls(alpha, None if all(alphas) else alpha == 0)

    def shift(self, hidden: torch.Tensor, steering: Steering, layer: int, where: slice) -> torch.Tensor:
        """Return `hidden` with its positions `where` shifted, in few operations: a decode step passes every layer."""
        state = hidden if hidden.shape[1] == 1 else hidden[:, where]
        delta = steering.delta(layer, state).to(hidden.device)
        # Alpha being float32, so is the sum.
        steered = torch.addcmul(state, self.alpha, delta).to(hidden.dtype)
        if self.none is not None:
            # Rows of alpha 0 are copied, not summed with zero: they keep their bits whatever delta holds.
            steered = torch.where(self.none, state, steered)
        if state.shape == hidden.shape:
            return steered
        result = hidden.clone()
        result[:, where] = steered
        return result
