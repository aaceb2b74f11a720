"""What the generic driver must be told about single architectures: data, no code."""

from typing import Any

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_VISION_TOKENS = {"vision_start_token_id": 291, "vision_end_token_id": 292}
_MROPE = {"text_config": {"rope_parameters": {"mrope_section": [4, 6, 6]}}}
_INSERTED = {"insert_layer_id": 1, "image_token_id": 290, "vision_config": {"insert_layer_id": 1}}
_GEMMA4_VISION = {
    "model_type": "gemma4_vision",
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "patch_size": 8,
    "pooling_kernel_size": 2,
    "position_embedding_size": 16,
}
_MERGED = {"out_hidden_size": 512}
_VQ = {"base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1}

# What an image is to a model: a tuple is the shape of random floats from 0 to 1, a list is whole numbers.
PICTURE = (1, 3, 32, 32)
PATCHES = {"pixel_values": (16, 384), "image_grid_thw": [[1, 4, 4]]}
_FLAT = PATCHES | {"pixel_values": (16, 192)}
_TILES = {"pixel_values": (1, 2, 3, 32, 32), "image_sizes": [[32, 32]]}
_SIZED = {"pixel_values": PICTURE, "image_sizes": [[32, 32]]}
_STRIP = {"pixel_values": (1, 3, 8, 128), "target_sizes": [[4, 4]]}
_NESTED = {"pixel_values": (1, 1, 3, 32, 32)}
IMAGES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("llava_next", "llava_next_video", "llava_onevision", "granite4_vision"), _TILES),
    **dict.fromkeys(("mistral3", "mistral_large4", "lighton_ocr", "emu3"), _SIZED),
    **dict.fromkeys(("idefics2", "idefics3", "smolvlm"), _NESTED),
    "deepseek_vl_hybrid": {"pixel_values": PICTURE, "high_res_pixel_values": PICTURE},
    "video_llava": {"pixel_values_images": PICTURE},
    "lfm2_vl": {"pixel_values": (1, 16, 192), "spatial_shapes": [[4, 4]], "pixel_attention_mask": [[1] * 16]},
    "mllama": {
        "pixel_values": (1, 1, 4, 3, 32, 32),
        "aspect_ratio_ids": [[1]],
        "aspect_ratio_mask": [[[1, 0, 0, 0]]],
    },
    "kosmos-2.5": {"flattened_patches": (1, 16, 194)},
    "fuyu": {"image_patches": (1, 4, 192)},
    **dict.fromkeys(("cosmos3_edge", "dots3_note", "ernie4_5_vl_moe", "hunyuan_vl"), _FLAT),
    "kimi_k25": PATCHES | {"pixel_values": (16, 3, 8, 8)},
    "paddleocr_vl": PATCHES | {"pixel_values": (16, 3, 8, 8)},
    "video_llama_3": _FLAT | {"image_merge_sizes": [2]},
    "inkling2": {"pixel_values": (4, 16, 16, 3), "image_grid_thw": [[1, 2, 2]]},
    "granite_docling": _NESTED | {"pixel_attention_mask": [[True]]},
    **dict.fromkeys(("minicpm_ocr", "minicpmv4_6", "minicpmv4_7"), _STRIP),
    "nemotron_h_omni": {"pixel_values": (16, 192), "image_grid_hw": [[4, 4]]},
    "molmo2": {
        "pixel_values": (1, 16, 192),
        "image_token_pooling": [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]],
        "image_grids": [[2, 2, 0, 0]],
        "image_num_crops": [1],
    },
    "gemma4": {
        "pixel_values": (1, 16, 192),
        "image_position_ids": [[[k % 4, k // 4] for k in range(16)]],
    },
    "gemma4_unified": {
        "pixel_values": (1, 4, 768),
        "image_position_ids": [[[k % 2, k // 2] for k in range(4)]],
    },
}
# How many tokens an image takes, where the model can't be asked for its features.
TOKENS = {
    "deepseek_vl": 16,
    "deepseek_vl_hybrid": 16,
    "janus": 16,
    "emu3": 20,
    "granite4_vision": 10,
    "fuyu": 4,
    "mllama": 1,
    "video_llava": 16,
    "kosmos-2.5": 32,
}
# What flags an answer's token in one pass over prompt and answer, where it is not 0: PaliGemma reads only 1 causally.
ANSWER_FLAGS = {"paligemma": 1}

# Config values beside the shrunk defaults: what the default config leaves out or what hangs together.
OVERRIDES: dict[str, dict[str, Any]] = {
    "chameleon": {
        "vocabulary_map": {"<image>": 290}
        | {f"IMGIMG{''.join('ABCDEFGHIJ'[int(digit)] for digit in str(k))}Z": 100 + k for k in range(16)}
    },
    "aria": {"projector_patch_to_query_dict": {16: 4}},
    "llama4": {"vision_config": {"intermediate_size": 512}},
    "muse_glimmer": _MERGED,
    "muse_spark": _MERGED,
    "vipllava": {"vision_feature_layer": [-1, -2]},
    "gemma4": {"vision_config": _GEMMA4_VISION},
    "gemma4_unified": {
        "vision_config": {
            "model_type": "gemma4_unified_vision",
            "patch_size": 8,
            "pooling_kernel_size": 2,
            "mm_embed_dim": 128,
            "mm_posemb_size": 16,
            "output_proj_dims": 128,
        }
    },
    "diffusion_gemma": {
        "text_config": {
            "num_global_key_value_heads": 2,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 64,
        }
    },
    "kosmos-2.5": {"vision_config": {"patch_embed_hidden_size": 192}},
    "mllama": {"vision_config": {"vision_output_dim": 384}},
    "dots3_note": {
        "text_config": {"qk_rope_head_dim": 8, "qk_nope_head_dim": 24},
        "vision_config": {"adapter_in_dim": 128},
        "audio_config": {"adapter_input_size": 128},
    },
    "minicpmv4_6": _INSERTED,
    "minicpmv4_7": _INSERTED | {"image_start_id": 291, "image_end_id": 292},
    "minicpm_ocr": _INSERTED,
    "unlimited_ocr": {"vision_config": {"sam_config": {"downsample_channels": [64, 128]}}},
    "cohere_compass": {"text_config": {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}}},
    "deepseek_ocr2": {
        "vision_config": {"sam_config": {"downsample_channels": [64, 128]}},
        "text_config": {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"], "num_experts_per_tok": 2},
    },
    "emu3": {
        "vocabulary_map": {"<image>": 290, "<|extra_200|>": 293}
        | {f"<|visual token {k:06}|>": 100 + k for k in range(16)},
        "vq_config": _VQ
        | {"codebook_size": 16, "channel_multiplier": [1, 1, 1, 1], "hidden_size": 32, "attn_resolutions": []},
    },
    "ernie4_5_vl_moe": {
        "text_config": {"rope_parameters": _ROPE | {"mrope_section": [6, 6, 4]}, "moe_intermediate_size": [64, 64]}
    },
    "granite4_vision": {
        "downsample_rate": "1/2",
        "deepstack_layer_map": [[1, 0]],
        "spatial_target_layers": [0, 1, 2, 3],
    },
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
        "text_config": {
            "indexer_n_heads": 4,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 32,
            "indexer_budget": 8,
            "indexer_compress_ratio": 4,
        }
    },
    "step3p7": {"text_config": {"sliding_window": 12}},
}
