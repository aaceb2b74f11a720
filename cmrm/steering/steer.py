"""Add alpha x delta to the hidden states of decoder layers: the one path of every method."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch

from ..errors import CmrmError
from ..model.hooks import hooked
from ..model.vlm import Vlm
from ..settings import Positions, Steps, check_choice, checked_alphas, checked_layers


class Steering(Protocol):
    """What to add, apart from how much (alpha) and where (layers, positions, steps)."""

    def delta(self, layer: int, state: torch.Tensor) -> torch.Tensor:
        """Return the shift of `state`, `(rows, positions, hidden)` in the model's dtype, or what broadcasts to it.

        Shifts are best computed and returned in float32, in which they are added.
        """
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
    strengths: dict[tuple[torch.device, int], _Strength] = {}  # made once, as each decode step passes every layer

    def edit(layer: int, hidden: torch.Tensor) -> torch.Tensor | None:
        passes[layer] += 1
        if steps == "prompt" and passes[layer] > 1 and hidden.shape[1] == 1:
            return None
        key = (hidden.device, len(hidden))
        if key not in strengths:
            strengths[key] = _Strength.of(alphas, hidden)
        return strengths[key].shifted(hidden, steering, layer, where)

    return hooked({index: vlm.layers[index] for index in chosen}, edit)


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

    def shifted(self, hidden: torch.Tensor, steering: Steering, layer: int, where: slice) -> torch.Tensor:
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
