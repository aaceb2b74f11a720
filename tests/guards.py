"""Tiny guard models, whose weights are set so that one word makes an answer unsafe."""

import json

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

SPECIAL = ("<pad>", "<s>", "</s>", "<sep>", "<unk>", "<image>")
WORDS = {word: k for k, word in enumerate((*SPECIAL, "spill", "verdict", "safe", "unsafe", "S1"))}
SPILL, VERDICT, SAFE, UNSAFE, S1 = range(5)  # what dimensions of the hidden state hold

STRINGS = "<s> {% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}verdict"
PARTS = (
    "<s> {% for m in messages %}{{ m['role'] }} : {% for part in m['content'] if part['type'] == 'text' %}"
    "{{ part['text'] }} {% endfor %}{% endfor %}{% if add_generation_prompt %}verdict{% endif %}"
)
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "vocab_size": len(WORDS),
    "pad_token_id": WORDS["<pad>"],
    "bos_token_id": WORDS["<s>"],
    "eos_token_id": WORDS["</s>"],
    "tie_word_embeddings": False,
}


def tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    sep = ("<sep>", WORDS["<sep>"])
    if not template:
        core.post_processor = processors.TemplateProcessing("$A <sep>", "$A <sep> $B <sep>", [sep])
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "sep_token": "<sep>", "unk_token": "<unk>"}
    made = PreTrainedTokenizerFast(tokenizer_object=core, **names)
    made.chat_template = template
    return made


def rig(body: LlamaModel, head: torch.nn.Linear, rows: dict[int, tuple[int, float]]) -> None:
    """Let the head tell whether "spill" was read anywhere; padding would count as one, were it read."""
    with torch.no_grad():
        for name, parameter in [*body.named_parameters(), ("head", head.weight)]:
            parameter.fill_("norm" in name)
        for word, place in (("spill", SPILL), ("<pad>", SPILL), ("verdict", VERDICT), ("<sep>", VERDICT)):
            body.embed_tokens.weight[WORDS[word], place] = 1
        for word, place in (("safe", SAFE), ("unsafe", UNSAFE), ("S1", S1)):
            body.embed_tokens.weight[WORDS[word], place] = 1
        attention = body.layers[0].self_attn  # queries and keys of 0 look everywhere alike
        attention.v_proj.weight[SPILL, SPILL] = attention.o_proj.weight[SPILL, SPILL] = 1
        for row, (place, weight) in rows.items():
            head.weight[row, place] = weight


SAYS = {WORDS["unsafe"]: (SPILL, 1000.0), WORDS["safe"]: (VERDICT, 1.0), WORDS["S1"]: (UNSAFE, 1e6)}


def save_chat(folder, template: str | None = STRINGS, says=SAYS):
    model = LlamaForCausalLM(LlamaConfig(**TEXT))
    rig(model.model, model.lm_head, says)
    # One row holds one reading; the end follows "safe", and "S1" by its own weight.
    with torch.no_grad():
        model.lm_head.weight[WORDS["</s>"], [SAFE, S1]] = 1e6
    model.save_pretrained(folder)
    tokenizer(template).save_pretrained(folder)
    return str(folder)


def save_seen(folder):
    """As Llama Guard 4: an image-text-to-text model whose turns hold lists of parts, its template in JSON."""
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision |= {"image_size": 32, "patch_size": 16}
    parts = {"vision_config": CLIPVisionConfig(**vision), "text_config": LlamaConfig(**TEXT)}
    config = LlavaConfig(**parts, image_token_index=WORDS["<image>"], tie_word_embeddings=False)
    model = LlavaForConditionalGeneration(config)
    rig(model.model.language_model, model.lm_head, SAYS)
    with torch.no_grad():
        model.lm_head.weight[WORDS["</s>"], [SAFE, S1]] = 1e6
    model.generation_config.eos_token_id = WORDS["</s>"]
    model.save_pretrained(folder)
    tokenizer(PARTS).save_pretrained(folder)
    template = folder / "chat_template.jinja"
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template.read_text()}))
    template.unlink()
    return str(folder)


def save_classifier(folder, *labels: str):
    config = LlamaConfig(**TEXT, id2label=dict(enumerate(labels)), label2id={b: a for a, b in enumerate(labels)})
    model = LlamaForSequenceClassification(config)
    rig(model.model, model.score, {0: (VERDICT, 1.0), 1: (SPILL, 1000.0)})
    model.save_pretrained(folder)
    tokenizer(None).save_pretrained(folder)
    return str(folder)
