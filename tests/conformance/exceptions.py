"""What the generic driver must be told about single architectures: data, no code."""

from typing import Any

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_VISION_TOKENS = {"vision_start_token_id": 291, "vision_end_token_id": 292}
_MROPE = {"text_config": {"rope_parameters": {"mrope_section": [4, 6, 6]}}}
_VQ = {"base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1}

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
