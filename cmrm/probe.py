"""What a decoder does with a text alone, found out by one pass instead of by its name."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from .errors import CmrmError
from .hooks import hooked

# Rows that begin alike differ by rounding at most; a token that is seen from before it changes states by far more.
_ROUNDING = 0.01


@dataclass(frozen=True)
class Probe:
    """`running`: the layers that ran. `causal`: whether a token's state depends on those before it alone.

    Layers of cross-attention to an image don't run on a text alone. Prefix-LMs such as PaliGemma read a
    prompt in both directions.
    """

    running: tuple[int, ...]
    causal: bool

    @classmethod
    def of(cls, model: PreTrainedModel, layers: Sequence[nn.Module], inputs: dict[str, torch.Tensor]) -> "Probe":
        """Run a text-only prompt of batch 1 in three rows, the last one with another last token.

        Raises:
            CmrmError: no layer ran, or one puts out something else than a state a row and position.
        """
        states: dict[int, torch.Tensor] = {}
        batch = {key: torch.cat([value] * 3) for key, value in inputs.items()}
        ids = batch["input_ids"]
        ids[-1, -1] = next((token for token in ids[0].tolist() if token != ids[0, -1]), ids[0, -1])
        with torch.no_grad(), hooked(dict(enumerate(layers)), lambda layer, hidden: states.update({layer: hidden})):
            model(**batch, use_cache=False)
        odd = [tuple(state.shape) for state in states.values() if state.shape[:-1] != ids.shape]
        if odd or not states:
            what = f"put out {odd[0]} for {tuple(ids.shape)} tokens" if odd else "did not run on a text"
            raise CmrmError(
                f"The decoder layers of {type(model).__name__} {what}, so no state a row and position can be steered; "
                "use another VLM."
            )
        one, _, other = states[max(states)][:, :-1].float()
        apart = (one - other).norm(dim=-1) > _ROUNDING * one.norm(dim=-1)
        return cls(tuple(sorted(states)), not bool(apart.any()))
