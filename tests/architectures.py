"""Five architectures built tiny with random weights, and their inputs made by hand (no processor)."""

from dataclasses import dataclass

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    Gemma3Config,
    Idefics3Config,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    PretrainedConfig,
    Qwen2_5_VLConfig,
)

from cmrm import Vlm
from cmrm.model import load_settings

IMAGE, START, END = 290, 291, 292
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 320,
    "initializer_range": 0.2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CLIP = CLIPVisionConfig(
    hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
)
SIGLIP = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


def config(name: str) -> PretrainedConfig:
    if name == "llava":
        return LlavaConfig(vision_config=CLIP, text_config=LlamaConfig(**TEXT), image_token_index=IMAGE)
    if name == "llava_next":
        text = LlamaConfig(**TEXT)
        return LlavaNextConfig(
            vision_config=CLIP, text_config=text, image_token_index=IMAGE, image_grid_pinpoints=[[32, 32], [32, 64]]
        )
    if name == "qwen2_5_vl":
        vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
        special = {"image_token_id": IMAGE, "vision_start_token_id": START, "vision_end_token_id": END}
        text = TEXT | {"rope_parameters": rope}
        return Qwen2_5_VLConfig(text_config=text, vision_config=vision | {"fullatt_block_indexes": [1]}, **special)
    if name == "gemma3":
        # A window shorter than the prompt, so that sliding layers forget.
        return Gemma3Config(
            text_config=TEXT | {"sliding_window": 12, "query_pre_attn_scalar": 16, "num_hidden_layers": 6},
            vision_config=SIGLIP,
            mm_tokens_per_image=4,
            image_token_index=IMAGE,
        )
    return Idefics3Config(
        text_config=TEXT | {"model_type": "llama"}, vision_config=SIGLIP, image_token_id=IMAGE, scale_factor=2
    )


def image_inputs(name: str, seed: int) -> tuple[int, dict[str, torch.Tensor]]:
    """How many tokens an image takes, and what the model wants beside them."""
    noise = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=noise)

    return {
        "llava": lambda: (4, {"pixel_values": draw(1, 3, 32, 32)}),
        "llava_next": lambda: (10, {"pixel_values": draw(1, 2, 3, 32, 32), "image_sizes": torch.tensor([[32, 32]])}),
        "qwen2_5_vl": lambda: (4, {"pixel_values": draw(16, 1176), "image_grid_thw": torch.tensor([[1, 4, 4]])}),
        "gemma3": lambda: (4, {"pixel_values": draw(1, 3, 32, 32)}),
        "idefics3": lambda: (4, {"pixel_values": draw(1, 1, 3, 32, 32)}),
    }[name]()


@dataclass(frozen=True)
class _Template:
    """What a `Vlm` asks of a processor, where prompts are encoded by hand."""

    name: str

    def encode(self, prompt: str, image: object, device: torch.device, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        seed = 0 if image is None else sum(image.resize((4, 4)).tobytes())
        count, extra = image_inputs(self.name, seed) if image is not None else (0, {})
        shown = [START, *[IMAGE] * count, END] if count else []
        tokens = [1, 5, *shown, *(20 + byte % 200 for byte in prompt.encode()), 6]
        ids = torch.tensor([tokens])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **extra}
        if self.name == "gemma3":
            inputs["token_type_ids"] = (ids == IMAGE).long()
        if self.name == "qwen2_5_vl":
            inputs["mm_token_type_ids"] = (ids == IMAGE).int()
        return {k: v.to(device, dtype if v.is_floating_point() else None) for k, v in inputs.items()}


def vlm(name: str, form: str, processor, folder) -> Vlm:
    """A tiny model in float32, bfloat16 or NF4, whose prompts are encoded by hand."""
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config(name))
    if form == "nf4":
        model.save_pretrained(folder)
        settings = load_settings(AutoConfig.from_pretrained(folder), "nf4")
        model = AutoModelForImageTextToText.from_pretrained(folder, **settings)
    elif form == "bfloat16":
        model = model.to(torch.bfloat16)
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    template = _Template(name)

    class HandMade(Vlm):
        def encode(self, prompt, image):
            return template.encode(prompt, image, self.device, self.model.dtype)

    return HandMade(model, processor, name=name)
