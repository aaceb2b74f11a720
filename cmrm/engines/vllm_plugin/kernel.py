"""`op.steer` for CUDA, one program a token that ends at once where nothing is asked for. Not run on a GPU yet.

It launches the same grid over the same buffers whatever the table holds and never waits for the host, so a CUDA graph
can capture it.
"""

import torch
import triton
import triton.language as tl

from .table import PROJECT, REACH, Table

_BLOCK = 1024


@triton.jit
def _load_state(hidden_row, residual_row, at, valid, split: tl.constexpr):  # type: ignore[no-untyped-def]
    h = tl.load(hidden_row + at, valid, other=0.0)
    if split:
        # Rounded to the model's dtype, as `hidden + residual` is.
        h = (h.to(tl.float32) + tl.load(residual_row + at, valid, other=0.0).to(tl.float32)).to(h.dtype)
    return h.to(tl.float32)


@triton.jit
def _steer(  # type: ignore[no-untyped-def]
    hidden,
    residual,
    slots,
    kept,
    alphas,
    vectors,
    levels,
    chosen,
    modes,
    states,
    layer,
    layers,
    width,
    hidden_stride,
    residual_stride,
    split: tl.constexpr,
    reaches: tl.constexpr,
    projects: tl.constexpr,
    block: tl.constexpr,
):
    token = tl.program_id(0)
    slot = tl.load(slots + token)
    number = tl.load(kept + token)
    if (slot > 0) | (number > 0):
        alpha = tl.load(alphas + token)
        mode = tl.load(modes + slot)
        place = slot.to(tl.int64) * layers + layer
        here = tl.load(chosen + place) > 0
        on = here & (alpha > 0)
        vector_row = vectors + place * width
        hidden_row = hidden + token.to(tl.int64) * hidden_stride
        residual_row = residual + token.to(tl.int64) * residual_stride
        state_row = states + (number.to(tl.int64) * layers + layer) * width
        dtype = hidden.dtype.element_ty
        parts = tl.zeros((block,), tl.float32)
        if mode == projects:
            for begin in range(0, width, block):
                at = begin + tl.arange(0, block)
                valid = at < width
                state = _load_state(hidden_row, residual_row, at, valid, split)
                parts += state * tl.load(vector_row + at, valid, other=0.0)
        missing = tl.load(levels + place) - tl.sum(parts, axis=0)
        for begin in range(0, width, block):
            at = begin + tl.arange(0, block)
            valid = at < width
            state = _load_state(hidden_row, residual_row, at, valid, split)
            vector = tl.load(vector_row + at, valid, other=0.0)
            delta = tl.where(mode == reaches, vector - state, tl.where(mode == projects, missing * vector, vector))
            steered = (state + alpha * delta).to(dtype)
            if on:
                tl.store(hidden_row + at, steered, valid)
                if split:
                    tl.store(residual_row + at, tl.zeros_like(steered), valid)
            if number > 0:
                after = tl.where(on, steered.to(tl.float32), state)
                gap = tl.where(here, delta, 0.0)
                tl.store(state_row + at, tl.where(mode == reaches, gap, after), valid)


def launch(hidden: torch.Tensor, residual: torch.Tensor | None, layer: int, table: Table) -> None:
    """Do what `op.steer` does on CUDA tensors `(tokens, hidden)` whose rows are contiguous."""
    tokens, width = hidden.shape
    if tokens == 0:
        return
    _steer[(tokens,)](
        hidden,
        hidden if residual is None else residual,
        table.slots,
        table.kept,
        table.alphas,
        table.vectors,
        table.levels,
        table.chosen,
        table.modes,
        table.states,
        layer,
        table.shape[0],
        width,
        hidden.stride(0),
        0 if residual is None else residual.stride(0),
        split=residual is not None,
        reaches=REACH,
        projects=PROJECT,
        block=min(_BLOCK, triton.next_power_of_2(width)),
    )
