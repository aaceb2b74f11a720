"""Tiny models with random weights, built in memory: the real classes at toy size."""

from contextlib import AbstractContextManager, nullcontext

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

from cmrm import Vlm
from cmrm.model.hooks import hooked

TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)

PICTURE = Image.effect_noise((40, 28), 90).convert("RGB")


def byte_tokens() -> Tokenizer:
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={char: k for k, char in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return core


def tokenizer() -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(tokenizer_object=byte_tokens(), bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    made.add_tokens(["<image>"], special_tokens=True)
    return made


def processor() -> LlavaProcessor:
    side = {"height": 32, "width": 32}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=side, do_center_crop=False),
        tokenizer=tokenizer(),
        patch_size=16,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )


def llava(layers: int = 4, hidden: int = 64, seed: int = 0, dtype: torch.dtype = torch.float32):
    torch.manual_seed(seed)
    vocabulary = len(tokenizer())
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
        ),
        text_config=LlamaConfig(
            hidden_size=hidden,
            intermediate_size=128,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=vocabulary,
            max_position_embeddings=512,
            initializer_range=0.2,
            bos_token_id=256,
            eos_token_id=257,
            pad_token_id=258,
        ),
        image_token_index=tokenizer().convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    model = LlavaForConditionalGeneration(config).to(dtype)
    model.generation_config.eos_token_id = 257
    model.generation_config.pad_token_id = 258
    return model


def vlm(**options) -> Vlm:
    return Vlm(llava(**options), processor(), name="tiny")


def plain(
    vlm: Vlm, inputs: dict[str, torch.Tensor], steering: AbstractContextManager[None] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """One full forward without the library's shortcuts, float32 at the last position.

    Logits `(rows, vocabulary)`, and the states of the hooked layers `(rows, layers, hidden)`.
    """
    states: dict[int, torch.Tensor] = {}
    _forget_positions(vlm)
    with torch.no_grad(), steering or nullcontext():
        watch = hooked(dict(enumerate(vlm.layers)), lambda k, hidden: states.update({k: hidden[:, -1].float()}))
        with watch:
            logits = vlm.model(**inputs).logits[:, -1].float()
    return logits, torch.stack([states[k] for k in range(len(vlm.layers))], dim=1)


def generated(vlm: Vlm, inputs: dict[str, torch.Tensor], tokens: int) -> tuple[int, ...]:
    """What stock `generate` answers greedily, without the token that ends it."""
    _forget_positions(vlm)
    out = vlm.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    return tuple(token for token in out.tolist() if token not in vlm.end_tokens)


def _forget_positions(vlm: Vlm) -> None:
    for module in vlm.network.rope_modules:
        module.rope_deltas = None
