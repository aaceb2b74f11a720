"""Find the text decoder of a vision-language model and its layers, without guessing."""

from torch import nn
from transformers import PreTrainedModel

from ..errors import CmrmError

_LISTS = ("layers", "h", "block", "layer")


def decoder_of(model: nn.Module) -> nn.Module:
    """Return the module that holds the list of text decoder layers.

    Asked of the model (`get_decoder`), never searched by name or by count: a vision tower may have
    more blocks than the text decoder.
    """
    decoder = model.get_decoder() if isinstance(model, PreTrainedModel) else model
    while not _layer_list(decoder) and isinstance(inner := getattr(decoder, "model", None), nn.Module):
        decoder = inner
    return decoder


def decoder_layers(model: nn.Module) -> tuple[nn.Module, ...]:
    """Return the text decoder's layers in order.

    Raises:
        CmrmError: no list of layers was found where transformers keeps it.
    """
    layers = _layer_list(decoder_of(model))
    if not layers:
        raise CmrmError(
            f"The text decoder layers of {type(model).__name__} were not found, so it can't be steered; "
            "use an image-text-to-text model of transformers with a decoder."
        )
    return layers


def _layer_list(decoder: nn.Module) -> tuple[nn.Module, ...]:
    for name in _LISTS:
        found = getattr(decoder, name, None)
        if isinstance(found, nn.ModuleList):
            return tuple(found)
    return ()


def path_of(model: nn.Module, module: nn.Module) -> str:
    """Return the dotted name of `module` inside `model`."""
    return next(name for name, other in model.named_modules() if other is module)
