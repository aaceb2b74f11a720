"""What the generic driver must be told about single architectures: data, no code."""

from typing import Any

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_VISION_TOKENS = {"vision_start_token_id": 291, "vision_end_token_id": 292}
_MROPE = {"text_config": {"rope_parameters": {"mrope_section": [4, 6, 6]}}}
_VQ = {"base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1}

# What an image is to a model: a tuple is the shape of random floats, a list is whole numbers.
PICTURE = (1, 3, 32, 32)
PATCHES = {"pixel_values": (16, 384), "image_grid_thw": [[1, 4, 4]]}
_FLAT = PATCHES | {"pixel_values": (16, 192)}
_TILES = {"pixel_values": (1, 2, 3, 32, 32), "image_sizes": [[32, 32]]}
_SIZED = {"pixel_values": PICTURE, "image_sizes": [[32, 32]]}
_NESTED = {"pixel_values": (1, 1, 3, 32, 32)}
IMAGES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("llava_next", "llava_next_video", "llava_onevision", "granite4_vision"), _TILES),
    **dict.fromkeys(("mistral3", "mistral_large4", "lighton_ocr", "emu3"), _SIZED),
    **dict.fromkeys(("idefics2", "idefics3", "smolvlm", "granite_docling"), _NESTED),
    "deepseek_vl_hybrid": {"pixel_values": PICTURE, "high_res_pixel_values": PICTURE},
    "video_llava": {"pixel_values_images": PICTURE},
    "lfm2_vl": {"pixel_values": (1, 16, 192), "spatial_shapes": [[4, 4]], "pixel_attention_mask": [[1] * 16]},
    "mllama": {
        "pixel_values": (1, 1, 4, 3, 32, 32),
        "aspect_ratio_ids": [[1]],
        "aspect_ratio_mask": [[[1, 0, 0, 0]]],
        "cross_attention_mask": None,
    },
    "fuyu": {"image_patches": (1, 4, 192), "image_patches_indices": None},
}
# How many tokens an image takes, where the model can't be asked for its features.
TOKENS = {"deepseek_vl": 16, "deepseek_vl_hybrid": 16, "janus": 16, "emu3": 4, "fuyu": 4, "mllama": 1, "video_llava": 17, "mistral4": 0}

# Config values beside the shrunk defaults: what the default config leaves out or what hangs together.
OVERRIDES: dict[str, dict[str, Any]] = {
    "chameleon": {"vocabulary_map": {"<image>": 290} | {f"IMGIMG{letter}Z": 100 + k for k, letter in enumerate("ABCDEFGH")}},
    "cohere_compass": {"text_config": {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}}},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"], "num_experts_per_tok": 2}},
    "emu3": {"vocabulary_map": {"<image>": 290, "<|extra_200|>": 291}, "vq_config": _VQ},
    "ernie4_5_vl_moe": {"text_config": {"rope_parameters": _ROPE | {"mrope_section": [6, 6, 4]}, "moe_intermediate_size": [64, 64]}},
    "granite4_vision": {"downsample_rate": "1/2", "deepstack_layer_map": [[1, 0]], "spatial_target_layers": [0, 1, 2, 3]},
    "hunyuan_vl": {"text_config": {"head_dim": 32, "rope_parameters": {"mrope_section": [4, 4, 4, 4]}}},
    "janus": {"vq_config": _VQ},
    "molmo2": {"adapter_config": {"vision_feature_layer": [3, 1]}, "vision_config": {"image_size": [32, 32]}},
    "nemotron_h_omni": {"image_token_id": 290},
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "paddleocr_vl", "glm4v", "glm46v", "glmga", "glm_ocr"), _MROPE),
    "glm4v_moe": {"text_config": {"rope_parameters": {"mrope_section": [2, 3, 3]}}},
    "kimi_k25": {"text_config": {"head_dim": 16}},
    "qwen2_5_omni_thinker": _VISION_TOKENS | _MROPE,
    "qwen3_omni_moe_thinker": _VISION_TOKENS,
    "qwen4_exp": {
        "text_config": {"indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 32, "indexer_budget": 8, "indexer_compress_ratio": 4}
    },
    "step3p7": {"text_config": {"sliding_window": 12}},
}
