"""Add alpha x delta to the hidden states of decoder layers: the one path of every method."""

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch

from .errors import CmrmError
from .hooks import hooked
from .model import Vlm

MAX_ALPHA = 2.0

Positions = Literal["last", "all"]
Steps = Literal["prompt", "all"]


class Steering(Protocol):
    """What to add, apart from how much (alpha) and where (layers, positions, steps)."""

    def delta(self, layer: int, state: torch.Tensor) -> torch.Tensor:
        """Return the shift of `state`, float32 `(rows, positions, hidden)`, or what broadcasts to it."""
        ...


@dataclass(frozen=True)
class PerRow:
    """One steering a row, so that several methods answer in one batch."""

    rows: Sequence[Steering]

    def delta(self, layer: int, state: torch.Tensor) -> torch.Tensor:
        """Stack the deltas that each row's own steering returns for that row's state."""
        shifts = [row.delta(layer, state[k : k + 1]) for k, row in enumerate(self.rows)]
        return torch.cat([shift.expand_as(state[:1]) for shift in shifts])


def steer(
    vlm: Vlm,
    steering: Steering,
    alpha: float | Sequence[float],
    *,
    layers: Iterable[int] | None = None,
    positions: Positions = "last",
    steps: Steps = "prompt",
) -> AbstractContextManager[None]:
    """Steer every forward pass of `vlm.model` inside the block: h*_l = h_l + alpha delta_l(h_l).

    `alpha` is one number or one per row of the batch, finite and in [0, 2]; a row of alpha 0 keeps
    its bits. `layers` are decoder layer indices (default: all). `positions` "last" shifts the last
    position of a pass, "all" each of them. `steps` "prompt" shifts only passes over the prompt: the
    first pass in the block, and each later one of more than one position; "all" shifts each decode
    step too. The sum is done in float32 on the layer's device and cast back. The sign is the one of
    Eqs. 3-5 of arXiv 2410.09047: towards text.

    Raises:
        CmrmError: a value out of range; in the block, a batch with another number of rows.
    """
    alphas = checked_alphas(alpha)
    chosen = checked_layers(layers, len(vlm.layers))
    check_choice("positions", positions, Positions)
    check_choice("steps", steps, Steps)
    where = slice(None) if positions == "all" else slice(-1, None)
    passes = dict.fromkeys(chosen, 0)

    def edit(layer: int, hidden: torch.Tensor) -> torch.Tensor | None:
        passes[layer] += 1
        if steps == "prompt" and passes[layer] > 1 and hidden.shape[1] == 1:
            return None
        return _shifted(hidden, steering, layer, alphas, where)

    return hooked({index: vlm.layers[index] for index in chosen}, edit)


def _shifted(
    hidden: torch.Tensor, steering: Steering, layer: int, alphas: tuple[float, ...], where: slice
) -> torch.Tensor:
    if len(alphas) not in (1, hidden.shape[0]):
        raise CmrmError(
            f"{len(alphas)} alphas were given for a batch of {hidden.shape[0]} rows; give one number, or one per row."
        )
    state = hidden[:, where]
    alpha = torch.tensor(alphas, device=hidden.device).view(-1, 1, 1)
    shift = alpha * steering.delta(layer, state.float()).to(hidden.device)
    result = hidden.clone()
    # Rows of alpha 0 are copied, not summed with zero: they keep their bits whatever delta holds.
    result[:, where] = torch.where(alpha == 0, state, (state.float() + shift).to(hidden.dtype))
    return result


def checked_alphas(alpha: float | Sequence[float]) -> tuple[float, ...]:
    """Return alpha as a tuple of floats, all finite and in [0, 2].

    Raises:
        CmrmError: not a number, none at all, or outside the range: a negative alpha removes safety.
    """
    values = alpha if isinstance(alpha, Sequence) and not isinstance(alpha, str) else (alpha,)
    if not values:
        raise CmrmError("No alpha was given; give at least one number from 0 to 2.")
    return tuple(map(_checked_alpha, values))


def _checked_alpha(value: object) -> float:
    number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not 0 <= number <= MAX_ALPHA:
        raise CmrmError(
            f"alpha is {value!r}, but it must be a number from 0 to {MAX_ALPHA:g} "
            "(a negative one would remove safety); choose one in that range."
        )
    return number


def checked_layers(layers: Iterable[int] | None, count: int) -> tuple[int, ...]:
    """Return the layer indices in rising order, each once; all `count` of them for None."""
    chosen = tuple(range(count)) if layers is None else tuple(sorted(set(layers)))
    if not chosen or not all(isinstance(index, int) and 0 <= index < count for index in chosen):
        raise CmrmError(f"layers is {list(chosen)}, but it must name decoder layers from 0 to {count - 1}.")
    return chosen


def check_choice(name: str, value: object, choices: object) -> None:
    """Raise `CmrmError` unless `value` is one of the values of the `Literal` type `choices`."""
    allowed = get_args(choices)
    if value not in allowed:
        raise CmrmError(f"{name} is {value!r}, but it must be one of {', '.join(map(repr, allowed))}.")
