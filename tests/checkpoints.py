"""Tiny checkpoints of twelve families, saved to a folder as the hub has them: real classes, random weights.

The video processors of transformers need torchvision, so their settings are written as files and never built.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny
import torch
from tokenizers import processors
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
    Gemma3ImageProcessorPil,
    GotOcr2ImageProcessorPil,
    Idefics3ImageProcessorPil,
    LlavaNextImageProcessorPil,
    LlavaOnevisionImageProcessorPil,
    MllamaImageProcessorPil,
    PixtralImageProcessorPil,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    SiglipImageProcessorPil,
    SmolVLMImageProcessorPil,
)

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.2,
    "max_position_embeddings": 2048,
}
VISION = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
CLIP = {"model_type": "clip_vision_model", **VISION, "image_size": 32, "patch_size": 16}
SIGLIP = {"model_type": "siglip_vision_model", **VISION, "image_size": 32, "patch_size": 8}
QWEN_TEXT = TEXT | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}}
QWEN_VISION = {"depth": 2, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
SQUARE = {"height": 32, "width": 32}
PINPOINTS = [[32, 32], [32, 64], [64, 32], [64, 64]]

QWEN_MARKS = ("<|im_start|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
ROWS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))


def qwen(**vision: Any) -> Callable[[Mapping[str, int]], dict[str, Any]]:
    return lambda ids: {
        "vision_config": QWEN_VISION | vision,
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


def idefics_config(vision: str) -> Callable[[Mapping[str, int]], dict[str, Any]]:
    return lambda ids: {
        "vision_config": SIGLIP | {"model_type": vision},
        "text_config": {"model_type": "llama"},
        "image_token_id": ids["<image>"],
        "scale_factor": 2,
    }


LLAVA = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
MISTRAL_INSTRUCT = (
    "{{ bos_token }}{% for message in messages %}[INST] {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %} [/INST]{% endfor %}"
)


def chatml(image: str, system: str = "") -> str:
    """The layout of Qwen and of models on top of it; `image` stands where a picture is."""
    return (
        (f"{{{{ '<|im_start|>system\n{system}<|im_end|>\n' }}}}" if system else "")
        + "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        + "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '"
        + image
        + "' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


def idefics(start: str) -> str:
    return (
        start + "{% for message in messages %}{{ message['role'].capitalize() }}"
        "{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}"
        "{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
    )


GEMMA = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<start_of_image>"
    "{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT]{% for message in messages %}[INST]"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}[IMG]{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}[/INST]{% endfor %}"
)
LLAMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<|image|>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """What a family's folder holds. `image_tokens` is how many a 40 x 28 picture takes."""

    model_type: str
    processor: str
    image_processor: Any
    image_tokens: int
    config: Callable[[Mapping[str, int]], dict[str, Any]]
    image_token: str = "<image>"
    template: str | None = None
    bos: str | None = "<s>"
    eos: str = "</s>"
    named_tokens: Mapping[str, str] = field(default_factory=dict)
    more_tokens: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    video: str | None = None
    text_config: Mapping[str, Any] = field(default_factory=lambda: TEXT)
    needs: str = ""

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A byte tokenizer with the family's special tokens, which begins with the BOS token if there is one."""
        core = tiny.byte_tokens()
        special = [token for token in (self.bos, self.eos, "<pad>", self.image_token) if token]
        core.add_special_tokens(list(dict.fromkeys([*special, *self.named_tokens.values(), *self.more_tokens])))
        if self.bos:
            begin = (self.bos, core.token_to_id(self.bos))
            core.post_processor = processors.TemplateProcessing(single=f"{self.bos} $A", special_tokens=[begin])
        return PreTrainedTokenizerFast(
            tokenizer_object=core,
            bos_token=self.bos,
            eos_token=self.eos,
            pad_token="<pad>",
            extra_special_tokens=dict(self.named_tokens),
        )

    def save(self, folder: Path) -> None:
        """Write processor and model files to `folder`."""
        tokenizer = self.tokenizer()
        tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)
        settings = {"processor_class": self.processor, **self.options}
        (folder / "processor_config.json").write_text(json.dumps(settings))
        if self.template:
            (folder / "chat_template.jinja").write_text(self.template)
        if self.video:
            (folder / "video_preprocessor_config.json").write_text(json.dumps({"video_processor_type": self.video}))
        self.model(tokenizer).save_pretrained(folder)

    def model(self, tokenizer: PreTrainedTokenizerFast) -> torch.nn.Module:
        torch.manual_seed(0)
        ids = {**tokenizer.get_vocab(), "vocabulary": len(tokenizer)}
        ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        ends["bos_token_id"] = tokenizer.bos_token_id
        settings = self.config(ids)
        text = {**self.text_config, "vocab_size": len(tokenizer), **ends, **settings.pop("text_config", {})}
        model = AutoModelForImageTextToText.from_config(
            AutoConfig.for_model(self.model_type, text_config=text, **settings)
        )
        for name, parameter in model.named_parameters():
            if name.endswith(("_gate", "mm_input_projection_weight")):  # 0 at first: an image would count for nothing
                torch.nn.init.uniform_(parameter, 0.2, 0.4)
        for name, value in ends.items():
            setattr(model.generation_config, name, value)
        return model


_FAMILIES = (
    Family(
        "llava",
        "LlavaProcessor",
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE),
        4,
        lambda ids: {
            "vision_config": CLIP,
            "text_config": {"model_type": "llama"},
            "image_token_index": ids["<image>"],
            "image_seq_length": 4,
        },
        template=LLAVA,
        options={"patch_size": 16, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    Family(
        "llava_next",
        "LlavaNextProcessor",
        LlavaNextImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS),
        4 + 6,
        lambda ids: {
            "vision_config": CLIP,
            "text_config": {"model_type": "mistral"},
            "image_token_index": ids["<image>"],
            "image_grid_pinpoints": PINPOINTS,
        },
        template=MISTRAL_INSTRUCT,
        options={"patch_size": 16, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    Family(
        "llava_onevision",
        "LlavaOnevisionProcessor",
        LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=PINPOINTS),
        16 + 28,
        lambda ids: {
            "vision_config": SIGLIP | {"vision_use_head": False},
            "text_config": {"model_type": "qwen2"},
            "image_token_index": ids["<image>"],
            "video_token_index": ids["<video>"],
            "image_grid_pinpoints": PINPOINTS,
        },
        template=chatml("<image>"),
        bos=None,
        eos="<|im_end|>",
        more_tokens=("<|im_start|>", "<video>"),
        options={"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
        video="LlavaOnevisionVideoProcessor",
    ),
    Family(
        "qwen2_5_vl",
        "Qwen2_5_VLProcessor",
        Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 84 * 84}),
        6,
        qwen(fullatt_block_indexes=[1]),
        image_token="<|image_pad|>",
        template=chatml("<|vision_start|><|image_pad|><|vision_end|>", "You are a helpful assistant."),
        bos=None,
        eos="<|im_end|>",
        more_tokens=QWEN_MARKS,
        video="Qwen2VLVideoProcessor",
        text_config=QWEN_TEXT,
    ),
    Family(
        "qwen3_vl",
        "Qwen3VLProcessor",
        Qwen2VLImageProcessorPil(
            size={"shortest_edge": 64 * 64, "longest_edge": 96 * 96},
            patch_size=16,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ),
        6,
        qwen(num_position_embeddings=16, deepstack_visual_indexes=[0]),
        image_token="<|image_pad|>",
        template=chatml("<|vision_start|><|image_pad|><|vision_end|>"),
        bos=None,
        eos="<|im_end|>",
        more_tokens=QWEN_MARKS,
        video="Qwen3VLVideoProcessor",
        text_config=QWEN_TEXT,
    ),
    Family(
        "gemma3",
        "Gemma3Processor",
        Gemma3ImageProcessorPil(size=SQUARE),
        4,
        lambda ids: {
            "vision_config": SIGLIP | {"vision_use_head": False},
            "text_config": {"sliding_window": 12, "query_pre_attn_scalar": 16, "num_hidden_layers": 6},
            "mm_tokens_per_image": 4,
            "boi_token_index": ids["<start_of_image>"],
            "eoi_token_index": ids["<end_of_image>"],
            "image_token_index": ids["<image_soft_token>"],
        },
        image_token="<image_soft_token>",
        template=GEMMA,
        bos="<bos>",
        eos="<end_of_turn>",
        named_tokens={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
        more_tokens=("<start_of_turn>",),
        options={"image_seq_length": 4},
    ),
    Family(
        "paligemma",
        "PaliGemmaProcessor",
        SiglipImageProcessorPil(size=SQUARE, image_seq_length=16),
        16,
        lambda ids: {
            "vision_config": SIGLIP | {"vision_use_head": False, "projection_dim": 64},
            "text_config": {"model_type": "gemma"},
            "image_token_index": ids["<image>"],
            "projection_dim": 64,
            "vocab_size": ids["vocabulary"],
            "hidden_size": 64,
        },
        bos="<bos>",
        eos="<eos>",
    ),
    Family(
        "idefics3",
        "Idefics3Processor",
        Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}),
        4 * 5,
        idefics_config("idefics3_vision"),
        template=idefics("<|begin_of_text|>"),
        bos="<|begin_of_text|>",
        eos="<end_of_utterance>",
        more_tokens=("<fake_token_around_image>", "<global-img>", *ROWS),
        options={"image_seq_len": 4},
    ),
    Family(
        "smolvlm",
        "SmolVLMProcessor",
        SmolVLMImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}),
        4 * 5,
        idefics_config("smolvlm_vision"),
        template=idefics("<|im_start|>"),
        bos="<|im_start|>",
        eos="<end_of_utterance>",
        named_tokens={
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "end_of_utterance_token": "<end_of_utterance>",
        },
        more_tokens=ROWS,
        options={"image_seq_len": 4},
        video="SmolVLMVideoProcessor",
    ),
    Family(
        "internvl",
        "InternVLProcessor",
        GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=True, min_patches=2, max_patches=4),
        4 * 5,
        lambda ids: {
            "vision_config": VISION | {"image_size": [32, 32], "patch_size": [8, 8]},
            "text_config": {"model_type": "qwen2"},
            "image_token_id": ids["<IMG_CONTEXT>"],
            "image_seq_length": 4,
        },
        image_token="<IMG_CONTEXT>",
        template=chatml("<IMG_CONTEXT>\n"),
        bos=None,
        eos="<|im_end|>",
        named_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        more_tokens=("<|im_start|>",),
        options={"image_seq_length": 4},
        video="InternVLVideoProcessor",
    ),
    Family(
        "mistral3",
        "PixtralProcessor",
        PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size=8),
        3 * 2,
        lambda ids: {
            "vision_config": {
                "model_type": "pixtral",
                **VISION,
                "head_dim": 32,
                "image_size": 64,
                "patch_size": 8,
            },
            "text_config": {"model_type": "mistral"},
            "image_token_index": ids["[IMG]"],
            "spatial_merge_size": 2,
        },
        image_token="[IMG]",
        template=MISTRAL,
        more_tokens=("[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        options={"patch_size": 8, "spatial_merge_size": 2},
        needs="torchvision",
    ),
    Family(
        "mllama",
        "MllamaProcessor",
        MllamaImageProcessorPil(size=SQUARE, max_image_tiles=4),
        1,
        lambda ids: {
            "vision_config": {
                "hidden_size": 64,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_global_layers": 1,
                "attention_heads": 2,
                "vision_output_dim": 128,
                "image_size": 32,
                "patch_size": 16,
                "max_num_tiles": 4,
                "intermediate_layers_indices": [0],
                "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1], [2, 2], [1, 3], [3, 1], [1, 4], [4, 1]],
            },
            "text_config": {
                "num_hidden_layers": 4,
                "cross_attention_layers": [1, 3],
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            },
            "image_token_index": ids["<|image|>"],
        },
        image_token="<|image|>",
        template=LLAMA,
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        more_tokens=("<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>"),
    ),
)
FAMILIES = {family.model_type: family for family in _FAMILIES}
