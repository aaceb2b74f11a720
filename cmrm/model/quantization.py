"""How weights are loaded: 4 or 8 bits for the text decoder alone, in the compute dtype of the hardware."""

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, get_args

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig, PretrainedConfig

from ..errors import CmrmError
from ..settings import DeviceMap, Quantization
from .layers import decoder_of, path_of
from .placement import on_gpu

FOUR_BIT = ("nf4", "fp4")
# bitsandbytes warns that an optional kernel package of the hub is not installed (its own kernels serve), and
# at each int8 pass that it computes in float16.
for _name in ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"):
    logging.getLogger(_name).setLevel(logging.ERROR)


def load_settings(
    config: PretrainedConfig, quantization: Quantization, device_map: DeviceMap = "cpu"
) -> dict[str, Any]:
    """Return the keywords for `from_pretrained`: dtype, placement and quantization.

    "auto" is NF4, or whatever the checkpoint is already quantized to.

    Raises:
        CmrmError: another choice than "auto" for a checkpoint that is already quantized.
    """
    dtype = compute_dtype(device_map)
    settings: dict[str, Any] = {"dtype": dtype, "device_map": device_map}
    stored = getattr(config, "quantization_config", None)
    if stored:
        if quantization != "auto":
            raise CmrmError(
                "The checkpoint is already quantized, so it can't be loaded otherwise; use quantization 'auto'."
            )
        return settings | _as_stored(config, stored, dtype)
    if quantization == "none":
        return settings
    four_bit = quantization != "int8"
    kept = list(_unquantized(config, odd_shapes=four_bit and not on_gpu(device_map)))
    settings["quantization_config"] = BitsAndBytesConfig(
        load_in_4bit=four_bit,
        load_in_8bit=not four_bit,
        bnb_4bit_quant_type="fp4" if quantization == "fp4" else "nf4",
        bnb_4bit_compute_dtype=dtype,
        # With a threshold, an outlier in one row of a batch would change how the other rows are computed.
        llm_int8_threshold=0.0,
        llm_int8_skip_modules=kept,
    )
    return settings


def compute_dtype(device_map: DeviceMap) -> torch.dtype:
    """Return bfloat16 where the hardware has it, float16 on older GPUs, else float32."""
    if on_gpu(device_map):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def cast_unquantized(model: nn.Module, config: PretrainedConfig, dtype: torch.dtype) -> None:
    """Bring what a quantized checkpoint left in its own dtype to `dtype`; transformers casts biases, not weights."""
    if getattr(config, "quantization_config", None):
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.dtype == (config.dtype or torch.float32):
                parameter.data = parameter.data.to(dtype)


def quantization_of(config: PretrainedConfig) -> str:
    """Return "none", "nf4", "fp4", "int8", or the name of another method that a checkpoint came with."""
    stored = getattr(config, "quantization_config", None)
    if not stored:
        return "none"
    read = _reader(stored)
    if read("load_in_4bit") or read("_load_in_4bit"):
        return str(read("bnb_4bit_quant_type"))
    method = read("quant_method")
    return "int8" if read("load_in_8bit") else str(getattr(method, "value", method))


def choice_for(stored: str, source: str) -> Quantization:
    """Return how to load `source` so that it is quantized as `stored` says, which `quantization_of` found.

    A checkpoint that came quantized is loaded by "auto" alone. One that can't be read is left to the loading.
    """
    with suppress(OSError):
        if PretrainedConfig.get_config_dict(source)[0].get("quantization_config"):
            return "auto"
    return next((choice for choice in get_args(Quantization) if choice == stored), "auto")


def shape_notes(model: nn.Module, quantization: str) -> tuple[str, ...]:
    """Return the line that says how many layers of a 4-bit text decoder stay as they are for their shapes, if any.

    Raises:
        CmrmError: 4-bit layers that came so with the checkpoint and that this CPU can't compute.
    """
    if quantization not in FOUR_BIT:
        return ()
    linear = [module for module in decoder_of(model).modules() if isinstance(module, nn.Linear)]
    odd = [module for module in linear if not _fits_cpu(module)]
    if any(type(module) is not nn.Linear and module.weight.device.type == "cpu" for module in odd):
        raise CmrmError(
            f"The checkpoint's 4-bit layers have shapes that bitsandbytes can't compute on a CPU ({_SHAPES}); "
            "use a GPU, or load the checkpoint that is not quantized."
        )
    kept = sum(type(module) is nn.Linear for module in odd)
    line = (
        f"{kept} of {len(linear)} linear layers of the text decoder stay unquantized, because bitsandbytes can't "
        f"compute their shapes in 4 bits on a CPU ({_SHAPES})."
    )
    return (line,) if kept else ()


_SHAPES = "it takes multiples of 64 inputs and 32 outputs"


def _fits_cpu(module: nn.Linear) -> bool:
    return module.out_features % 32 == 0 and module.in_features % 64 == 0


def _as_stored(config: PretrainedConfig, stored: Any, dtype: torch.dtype) -> dict[str, Any]:
    """The weights stay as they were saved; how bitsandbytes computes with them follows this project and hardware."""
    if not isinstance(stored, dict) or stored.get("quant_method") != "bitsandbytes":
        return {}
    name = str(dtype).removeprefix("torch.")
    config.quantization_config = {**stored, "llm_int8_threshold": 0.0, "bnb_4bit_compute_dtype": name}
    return {"config": config}


def _reader(stored: Any) -> Callable[[str], Any]:
    return stored.get if isinstance(stored, dict) else lambda key: getattr(stored, key, None)


def _unquantized(config: PretrainedConfig, odd_shapes: bool) -> Iterator[str]:
    """Name the modules that stay in full precision: all but the text decoder, and its odd shapes."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    decoder = decoder_of(model)
    yield from _outside(model, decoder, "")
    prefix = path_of(model, decoder)
    for name, module in decoder.named_modules():
        if odd_shapes and isinstance(module, nn.Linear) and not _fits_cpu(module):
            yield f"{prefix}.{name}"


def _outside(module: nn.Module, decoder: nn.Module, prefix: str) -> Iterator[str]:
    for name, child in module.named_children():
        if child is decoder:
            continue
        if any(part is decoder for part in child.modules()):
            yield from _outside(child, decoder, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
