"""Edit the outputs of decoder layers for the length of one `with` block, and leave no trace."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

Edit = Callable[[int, torch.Tensor], torch.Tensor | None]


@contextmanager
def hooked(layers: Mapping[int, nn.Module], edit: Edit) -> Iterator[None]:
    """Call `edit(layer, hidden)` on each layer's output `(rows, positions, hidden)`.

    A returned tensor replaces the output; None leaves it as it is. Only the handles made here
    are removed, however the block ends, so hooks of other owners survive.
    """
    with ExitStack() as stack:
        for index, module in layers.items():
            stack.callback(module.register_forward_hook(_forward_hook(index, edit)).remove)
        yield


def _forward_hook(index: int, edit: Edit) -> Callable[..., Any]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        # A layer returns a bare tensor or a tuple; indexing a bare tensor would take row 0.
        if isinstance(output, torch.Tensor):
            return edit(index, output)
        edited = edit(index, output[0])
        return None if edited is None else (edited, *output[1:])

    return hook
