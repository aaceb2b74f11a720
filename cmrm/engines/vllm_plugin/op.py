"""`cmrm::steer`, the last thing that a decoder layer does: opaque to torch.compile, one kernel to CUDA graphs.

    cmrm::steer(Tensor(a!) hidden, Tensor(b!)? residual, int layer) -> ()

`hidden` and `residual` are `(tokens, hidden)` in the model's dtype. vLLM carries the state in these two parts; of a
steered token the whole sum is put in `hidden` and zero in `residual`, so that the next layer adds up to exactly what
transformers hands on: the state rounded to the model's dtype.
"""

import torch

from .table import PROJECT, REACH, Table

NAME = "cmrm::steer"
_SCHEMA = "steer(Tensor(a!) hidden, Tensor(b!)? residual, int layer) -> ()"

_table: Table | None = None
_library: torch.library.Library | None = None


def use(table: Table | None) -> None:
    """Make `table` the one that the op reads in this process; None: the op does nothing."""
    global _table
    _table = table


def register() -> None:
    """Make the op known to torch, once a process."""
    global _library
    if _library is None:
        _library = torch.library.Library("cmrm", "DEF")
        _library.define(_SCHEMA)
        _library.impl("steer", _on_cpu, "CPU")
        _library.impl("steer", _on_cuda, "CUDA")
        _library._register_fake("steer", lambda hidden, residual, layer: None)


def _on_cpu(hidden: torch.Tensor, residual: torch.Tensor | None, layer: int) -> None:
    if _table is not None and _table.active is not None:
        steer(hidden, residual, layer, _table)


def _on_cuda(hidden: torch.Tensor, residual: torch.Tensor | None, layer: int) -> None:
    if _table is not None:
        from .kernel import launch  # needs Triton

        launch(hidden, residual, layer, _table)


def steer(hidden: torch.Tensor, residual: torch.Tensor | None, layer: int, table: Table) -> None:
    """Steer and record the active tokens of a layer's output, in place; what each gets is in `table`.

    It does what `cmrm.steering.steer` does: the shift is computed and added in float32 and the sum rounded once; a
    token of alpha 0 keeps its bits. Recorded is the state as steering left it, or the gap before of one that reaches
    (0 at layers that are not steered, as nothing is measured there).
    """
    if table.active is None:
        return
    tokens = table.active[table.active < len(hidden)]  # a dummy pass may be shorter than the last real one
    state = hidden[tokens] if residual is None else hidden[tokens] + residual[tokens]
    slots = table.slots[tokens].long()
    delta = _delta(state.float(), slots, layer, table)
    alphas = table.alphas[tokens]
    chosen = table.chosen[slots, layer] > 0
    steered = torch.addcmul(state, alphas[:, None], delta).to(hidden.dtype)
    on = (alphas > 0) & chosen
    hidden[tokens[on]] = steered[on]
    if residual is not None:
        residual[tokens[on]] = 0
    numbers = table.kept[tokens].long()
    if numbers.any():
        after = torch.where(on[:, None], steered, state).float()
        gaps = torch.where(chosen[:, None], delta, 0.0)
        reaches = (table.modes[slots] == REACH)[:, None]
        seen = numbers > 0
        table.states[numbers[seen], layer] = torch.where(reaches, gaps, after)[seen]


def _delta(state: torch.Tensor, slots: torch.Tensor, layer: int, table: Table) -> torch.Tensor:
    """Return the shift of each state, float32 `(tokens, hidden)`, before alpha."""
    vectors, modes = table.vectors[slots, layer], table.modes[slots][:, None]
    missing = table.levels[slots, layer] - (state * vectors).sum(dim=-1)
    projected = torch.where(modes == PROJECT, missing[:, None] * vectors, vectors)
    return torch.where(modes == REACH, vectors - state, projected)
