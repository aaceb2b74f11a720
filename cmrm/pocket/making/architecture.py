"""The pocket model's shape: tokenizer, processor and an untrained network of the LLaVA kind."""

import logging
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from .. import language, scenes

PAD, USER, ASSISTANT, END, IMAGE = SPECIALS = (
    "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>", "<image>",
)  # fmt: skip
SIDE, PATCH, VOCABULARY = 96, 16, 4096
IMAGE_TOKENS = (SIDE // PATCH) ** 2
# The space before a text is the template's, so that its first word is the same token as anywhere.
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['content'] is string %}"
    "{% if message['role'] != 'assistant' %} {% endif %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>"
    "{% elif part['type'] == 'text' %}"
    "{% if message['role'] != 'assistant' %} {% endif %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(seed: int) -> Tokenizer:
    """Byte-level BPE over the lexicon and sample talk; nearly every word becomes one token."""
    rng = random.Random(f"tokenizer {seed}")
    lines = [f" {word}" for text in language.list_words() for word in text.split()] * 6
    for _ in range(6000):
        kind = rng.choice(language.KINDS)
        talks = [language.ask_howto(kind, kind == "double", "train", rng)]
        talks += [language.ask_knowledge("train", rng), language.make_small_talk("train", rng)]
        lines += [text for talk in talks for text in (f" {talk.prompt}", talk.answer)]
        scene = scenes.random_scene("train", rng)
        asked = scenes.ask(scene, "train", rng)
        lines += [f" {scenes.describe(scene, rng)} {asked.text}", asked.answer]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def find_token(tokenizer: Tokenizer, text: str) -> int:
    """Return the id of a special token."""
    number = tokenizer.token_to_id(text)
    assert number is not None
    return number


def build_processor(tokenizer: Tokenizer) -> LlavaProcessor:
    """Tokenizer, chat template and a plain resize, as `AutoProcessor` will load them."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT, IMAGE],
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    pictures = CLIPImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=fast,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


def build_model(tokenizer: Tokenizer) -> LlavaForConditionalGeneration:
    """Every dimension is a multiple of 64, as NF4 blocks want it."""
    vision = CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=6,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=64,
    )
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        pad_token_id=find_token(tokenizer, PAD),
        eos_token_id=find_token(tokenizer, END),
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=find_token(tokenizer, IMAGE),
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.pad_token_id = text.pad_token_id
    model.generation_config.eos_token_id = text.eos_token_id
    model.generation_config.bos_token_id = None
    return model


def save(model: LlavaForConditionalGeneration, tokenizer: Tokenizer, folder: Path) -> None:
    """A normal folder in bfloat16; `model` itself stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    copy = build_model(tokenizer)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(folder)
    _rename_tower(folder / "model.safetensors")
    build_processor(tokenizer).save_pretrained(folder)


def _rename_tower(path: Path) -> None:
    """Give the tower's weights the names of every LLaVA checkpoint: vLLM knows no others, transformers reads both."""
    long, short = "vision_tower.vision_model.", "vision_tower."
    weights = load_file(path)
    named = {
        long + name.removeprefix(short) if name.startswith(short) and not name.startswith(long) else name: value
        for name, value in weights.items()
    }
    save_file(named, path, {"format": "pt"})


MEAN = np.array(CLIPImageProcessorPil.image_mean, dtype=np.float32)
STD = np.array(CLIPImageProcessorPil.image_std, dtype=np.float32)


def read_pixels(images: list[Image.Image]) -> torch.Tensor:
    """Do to images what the processor does, without its overhead."""
    small = [im.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC) for im in images]
    stack = np.stack([np.asarray(im, dtype=np.float32) for im in small]) / 255
    return torch.from_numpy((stack - MEAN) / STD).permute(0, 3, 1, 2).contiguous().float()
