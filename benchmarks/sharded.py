"""A LLaVA-1.5 checkpoint with random weights, made and quantized one shard at a time: never a whole model in memory."""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPVisionConfig, GenerationConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.quantizers.quantizers_utils import should_convert_module

from cmrm.model.quantization import load_settings

from .geometry import processor, tokenizer


@dataclass(frozen=True)
class Geometry:
    """Sizes of the text decoder and of the vision tower, and of the largest shard, as if it were not quantized."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int
    vision_hidden: int
    vision_intermediate: int
    vision_layers: int
    vision_heads: int
    side: int
    shard: str


PATCH = 14
GEOMETRIES = {
    # llava-hf/llava-1.5-7b-hf: Llama-2-7B (Vicuna 1.5) and CLIP ViT-L/14-336, 576 image tokens.
    "7b": Geometry(4096, 11008, 32, 32, 32064, 1024, 4096, 24, 16, 336, "1GB"),
    "small": Geometry(256, 704, 3, 4, 640, 64, 128, 3, 2, 56, "1MB"),
}


def build(folder: Path, size: str, quantized: bool = True) -> None:
    """Save the checkpoint, NF4 or bfloat16, with its processor; the same weights whichever it is."""
    geometry = GEOMETRIES[size]
    words = tokenizer(geometry.vocabulary)
    config = config_of(geometry, words.convert_tokens_to_ids("<image>"))
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    shapes = model.state_dict()
    nf4 = load_settings(config, "nf4")["quantization_config"]
    linear = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if quantized and isinstance(module, nn.Linear) and should_convert_module(name, nf4.llm_int8_skip_modules)
    }
    plan = split_torch_state_dict_into_shards(shapes, max_shard_size=geometry.shard)
    weight_map: dict[str, str] = {}
    stored = 0
    for filename, names in plan.filename_to_tensors.items():
        shard: dict[str, torch.Tensor] = {}
        for name in names:
            weight = _drawn(name, shapes[name].shape)
            shard |= _nf4(name, weight) if name in linear else {name: weight}
        save_file(shard, folder / filename, {"format": "pt"})
        weight_map |= dict.fromkeys(shard, filename)
        stored += sum(tensor.nbytes for tensor in shard.values())
    if plan.is_sharded:
        index = {"metadata": {"total_size": stored}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    if quantized:
        config.quantization_config = nf4.to_dict()
    GenerationConfig(eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id).save_pretrained(folder)
    processor(words, geometry.side, PATCH).save_pretrained(folder)
    config.save_pretrained(folder)  # last: a folder with it is a whole checkpoint


def config_of(geometry: Geometry, image_token: int) -> LlavaConfig:
    """Return the configuration of LLaVA-1.5 in the sizes of `geometry`."""
    text = LlamaConfig(
        vocab_size=geometry.vocabulary,
        hidden_size=geometry.hidden,
        intermediate_size=geometry.intermediate,
        num_hidden_layers=geometry.layers,
        num_attention_heads=geometry.heads,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
    )
    vision = CLIPVisionConfig(
        hidden_size=geometry.vision_hidden,
        intermediate_size=geometry.vision_intermediate,
        num_hidden_layers=geometry.vision_layers,
        num_attention_heads=geometry.vision_heads,
        image_size=geometry.side,
        patch_size=PATCH,
        projection_dim=768,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        image_seq_length=(geometry.side // PATCH) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        architectures=["LlavaForConditionalGeneration"],
        dtype=torch.bfloat16,
    )


def _drawn(name: str, shape: torch.Size) -> torch.Tensor:
    """Return bfloat16 weights that depend on nothing but the name: ones in norms, no biases, else normal."""
    if name.endswith(".bias"):
        return torch.zeros(shape, dtype=torch.bfloat16)
    if len(shape) == 1 and "norm" in name:
        return torch.ones(shape, dtype=torch.bfloat16)
    seeded = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=seeded)


def _nf4(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Quantize one weight to what bitsandbytes' layers save under its name."""
    from bitsandbytes.functional import quantize_4bit  # later than cmrm.model.quantization, which calms its log

    packed, state = quantize_4bit(weight, quant_type="nf4")
    return {name: packed} | {f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}
