"""Confirm on the live model what steering relies on: which layers run, what they put out, how a prompt may be split."""

from dataclasses import dataclass

import torch
from torch import nn

from ..errors import CmrmError, first_sentence
from .hooks import hooked
from .network import Context, Inputs, Network, first_tokens

# More rows than any stack of parallel streams is likely to have beside them, and fewer than tokens.
_ROWS, _TOKENS = 3, 6
_TOLERANCE = {torch.float32: 1e-3}
_HALF_TOLERANCE = 0.1


@dataclass(frozen=True)
class Findings:
    """The layers that can be steered, and why prompts can't be prefilled once for all rows ("" if they can)."""

    layers: tuple[nn.Module, ...]
    plain_batch: str = ""


def probe(network: Network, text: Inputs, layers: tuple[nn.Module, ...]) -> Findings:
    """Run the first tokens of a text prompt, three rows, through the network and see what `layers` do.

    Layers that don't run on text alone (cross-attention to an image) are left out: there is no text-only
    state to steer towards.

    Raises:
        CmrmError: the model fails on text alone, or its layers put out something else than one state of the
            model's width a row and position.
    """
    batch = {key: torch.cat([value] * _ROWS) for key, value in first_tokens(text, _TOKENS).items()}
    kind = type(network.model).__name__
    try:
        states, logits = _pass(network, layers, batch, network.empty_context())
    except Exception as error:
        raise CmrmError(
            f"{kind} can't answer a text without an image, beside which offsets are measured "
            f"({_brief(error)}); use another VLM."
        ) from error
    ran = tuple(index for index in range(len(layers)) if index in states)
    if not ran:
        raise CmrmError(f"None of the decoder layers of {kind} ran on a text, so it can't be steered; use another VLM.")
    expected = (*batch["input_ids"].shape, network.config.hidden_size)
    for index in ran:
        if tuple(states[index].shape) != expected:
            raise CmrmError(
                f"Decoder layer {index} of {kind} puts out {tuple(states[index].shape)} for {_ROWS} rows of "
                f"{expected[1]} tokens, not one state of width {expected[2]} a row and position, so it can't be "
                "steered; use another VLM."
            )
    return Findings(tuple(layers[index] for index in ran), _plain_batch(network, layers, batch, states, logits))


def _plain_batch(
    network: Network,
    layers: tuple[nn.Module, ...],
    batch: Inputs,
    states: dict[int, torch.Tensor],
    logits: torch.Tensor,
) -> str:
    """Say why a prompt can't be read up to its last token and fanned out, or ""."""
    ids = batch["input_ids"]
    if any(hasattr(layer, "set_prefill_length") for layer in network.empty_context().past.layers):
        return "its cache takes the first pass for the whole prompt"
    # Whatever the last token is, a causal decoder computes the same bits before it.
    other = torch.cat([ids[:, :-1], ids[:, :1]], dim=1)
    changed, _ = _pass(network, layers, batch | {"input_ids": other}, network.empty_context())
    if not all(torch.equal(state[:, :-1], changed[index][:, :-1]) for index, state in states.items()):
        return "what it computes of earlier tokens depends on the last one"
    try:
        context = network.empty_context()
        one = {key: value[:1] for key, value in batch.items()}
        network.forward(first_tokens(one, ids.shape[1] - 1), context)
        shared = network.forward({"input_ids": ids[:, -1:]}, context.fan_out(len(ids)))
    except Exception as error:
        return f"its cache can't be fanned out ({_brief(error)})"
    apart = ((shared - logits).norm() / logits.norm()).item()
    return (
        ""
        if apart <= _TOLERANCE.get(network.model.dtype, _HALF_TOLERANCE)
        else "a split prompt is answered differently"
    )


def _pass(
    network: Network, layers: tuple[nn.Module, ...], inputs: Inputs, context: Context
) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
    """Return the layers' outputs by index, of those that ran, and the last logits."""
    states: dict[int, torch.Tensor] = {}
    logits = network.forward(inputs, context, hooked(dict(enumerate(layers)), states.__setitem__))
    return states, logits


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {first_sentence(error)}"
