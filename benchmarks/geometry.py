"""A LLaVA of real geometry with random weights: SmolLM2-135M's decoder shape and a 336-pixel tower."""

import functools
from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

VOCABULARY = 49_152
SIDE, PATCH = 336, 14
TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Bytes, and a name for each other token, so that whatever random weights say can be shown."""
    names = sorted(pre_tokenizers.ByteLevel.alphabet())
    names += ["<image>", "</s>", "<pad>"]
    names += [f"w{k}" for k in range(vocabulary - len(names))]
    core = Tokenizer(models.BPE(vocab={name: k for k, name in enumerate(names)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="<pad>")
    made.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return made


def processor(words: PreTrainedTokenizerFast, side: int, patch: int) -> LlavaProcessor:
    """Whole pictures of `side` pixels, and a plain chat template."""
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"height": side, "width": side}, do_center_crop=False),
        tokenizer=words,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


def build(folder: Path) -> None:
    """Save the model and its processor in bfloat16, some 500 MB."""
    torch.manual_seed(0)
    words = tokenizer(VOCABULARY)
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=SIDE,
        patch_size=PATCH,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=(SIDE // PATCH) ** 2,
    )
    LlavaForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(folder)
    processor(words, SIDE, PATCH).save_pretrained(folder)


@functools.cache
def picture(seed: int = 0) -> Image.Image:
    """A photograph's size, nobody's photograph."""
    torch.manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (480, 640, 3), dtype=torch.uint8).numpy())
