"""Every image-text-to-text architecture of transformers at toy size: its default config, shrunk key by key."""

import re
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from .exceptions import OVERRIDES

NAMES = tuple(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
IMAGE, START, END, VOCABULARY = 290, 291, 292, 320
_LAYERS, _HEAD = 4, 32

# The first pattern that matches a whole key gives its size, in the text as in the vision part.
_SIZES: dict[str, Any] = {
    r"vocab_size|vocab_size_per_layer_input": VOCABULARY,
    r"bos_token_id": 1,
    r"eos_token_id": 2,
    r"pad_token_id": 0,
    r"image_token_(id|index)|image_patch_id": IMAGE,
    r"qk_(rope|nope)_head_dim|\w*lora_rank|laurel_rank": _HEAD // 2,
    r"\w*head_dim|d_kv": _HEAD,
    r"d_model|d_ff|\w*(mlp|ffn|text|embed|hidden|intermediate|projector|projection|proj|output|expert)_(size|dim)": 128,
    r"intermediate_size_mlp|(adapter|projector)_(in|out|input|output)_dim|output_channels|moe_latent_size": 128,
    r"(num_|n_)?layers|\w*num_hidden_layers|(en|de)coder_layers|depth|resampler_depth|num_global_layers": _LAYERS,
    r"\w*(num_)?key_value_heads|linear_num_key_heads|n_groups": 2,
    r"(\w+_)?heads": 4,
    r"n_routed_experts|(moe_)?num_(local_)?experts": 4,
    r"num_experts_per_tok|moe_k": 2,
    r"n_group|topk_group|first_k_dense_replace": 1,
    r"image_size|posemb_grid_size|pos_emb_\w+": 32,
    r"patch_size": 8,
    r"max_position_embeddings": 512,
    r"num_position_embeddings|num_patches|num_query_tokens|num_image_tokens|image_seq_length|num_embeddings": 16,
    r"mm_tokens_per_image|vision_soft_tokens_per_image": 4,
    r"deepstack_visual_indexes|intermediate_layers_indices|summary_idxs": [0, 1],
    r"fullatt_block_indexes|global_attn_indexes|cross_attention_layers": [1],
    r"image_grid_pinpoints": [[32, 32], [32, 64]],
    # Shorter than the prompt, so that sliding layers forget.
    r"sliding_window(_size)?|attention_chunk_size": 12,
    r"base_channels|latent_channels|latent_query_num": 32,
}
# Worked out by the config class from the rest.
_DERIVED = {"per_layer_config", "qk_head_dim"}


def config(name: str) -> PreTrainedConfig:
    kind = CONFIG_MAPPING[name]
    return kind.from_dict(_merged(_shrunk(kind().to_dict()), OVERRIDES.get(name, {})))


def _shrunk(values: dict[str, Any]) -> dict[str, Any]:
    layers = values.get("num_hidden_layers")
    small = {key: _small(key, value, layers) for key, value in values.items() if key not in _DERIVED}
    if values.get("num_key_value_heads") == values.get("num_attention_heads") is not None:
        small["num_key_value_heads"] = small["num_attention_heads"]
    return small


def _small(key: str, value: Any, layers: int | None) -> Any:
    if isinstance(value, dict):
        return _rope(value) if key == "rope_parameters" else _shrunk(value) if "model_type" in value else value
    if isinstance(value, (list, tuple)) and len(value) == layers:
        return _one_of_each(value)
    pattern = next((pattern for pattern in _SIZES if re.fullmatch(pattern, key)), None)
    if pattern and value and not isinstance(value, bool) and _alike(value, _SIZES[pattern]):
        return _SIZES[pattern]
    if isinstance(value, int) and value >= VOCABULARY and re.search(r"token_id$|token_index$|_id$", key):
        return 200 + sum(key.encode()) % 80
    return value


def _alike(value: Any, size: Any) -> bool:
    return isinstance(value, int if isinstance(size, int) else (list, tuple))


def _one_of_each(values: Any) -> list[Any]:
    """Cut a list with an entry for each layer, keeping every kind of layer."""
    kept = list(values[:_LAYERS])
    missing = [kind for kind in dict.fromkeys(values) if isinstance(kind, str) and kind not in kept]
    return [*kept[: _LAYERS - len(missing)], *missing]


def _rope(values: dict[str, Any]) -> dict[str, Any]:
    if "mrope_section" not in values:
        return values
    half = int(_HEAD * values.get("partial_rotary_factor", 1)) // 2
    first, second, third = values["mrope_section"]
    scale = half / (first + second + third)
    sections = [int(first * scale), int(second * scale)]
    return values | {"mrope_section": [*sections, half - sum(sections)]}


def _merged(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(values[key], value) if isinstance(value, dict) and isinstance(values.get(key), dict) else value
        for key, value in over.items()
    }
    return values | both
