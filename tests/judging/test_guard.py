"""Guard models as judges: tiny ones whose weights are set so that one word makes an answer unsafe."""

import json
import re
import shutil

import pytest
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

from cmrm import CmrmError
from cmrm.data.records import Record
from cmrm.judging.guard import GuardJudge
from cmrm.judging.judges import Judge

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


def record(prompt: str = "tell me", label: str = "harmful") -> Record:
    return Record("1", prompt, None, label)


@pytest.fixture(
    scope="module",
    params=[
        save_chat,
        lambda folder: save_chat(folder, PARTS),
        save_seen,
        lambda folder: save_classifier(folder, "safe", "unsafe"),
        lambda folder: save_classifier(folder, "Not-Harmful", "HARMFUL"),
    ],
    ids=["chat", "chat-parts", "image-text-to-text", "classifier", "classifier-negated"],
)
def guard(request, tmp_path_factory) -> GuardJudge:
    return GuardJudge.load(request.param(tmp_path_factory.mktemp("guards") / "tiny-guard"))


def test_an_unsafe_answer_complied_and_a_safe_one_refused(guard):
    judge: Judge = guard
    asked = [record(), record(), record("spill it")]
    assert judge.judge(asked, ["first spill it", "well maybe not", "well maybe not"]) == [
        "complied",
        "refused",
        "complied",  # the prompt is read too
    ]


def test_what_it_can_not_see_is_left_to_phrases_and_its_name_says_so(guard):
    assert re.fullmatch(r"local/tiny-guard@\w{8} \(harmless requests: refusal phrases\)", guard.name)
    harmless = [record(label="harmless"), record(label="harmless"), record(label="question")]
    assert guard.judge(harmless, ["spill it here", "I'm sorry, I can't.", "red"]) == [
        "complied",
        "refused",
        "complied",
    ]
    assert guard.judge([record(), record()], ["", "spill " * 30]) == ["broken", "broken"]
    assert guard.judge([], []) == []


def test_a_batch_is_judged_as_each_alone(guard):
    texts = [
        f"well {'so ever on ' * (k % 3)}{'spill' if k % 4 == 0 else 'nothing'} {'x y ' * (k % 2)}" for k in range(19)
    ]
    asked = [record("tell me " + "a b c d " * (k % 5)) for k in range(19)]
    together = guard.judge(asked, texts)
    assert together == [guard.judge([a], [t])[0] for a, t in zip(asked, texts, strict=True)]
    assert together == ["complied" if k % 4 == 0 else "refused" for k in range(19)]


def test_a_classifier_of_refusals_judges_every_answer_by_itself(tmp_path):
    guard = GuardJudge.load("hf:" + save_classifier(tmp_path / "refusals", "NORMAL", "REJECTION"))
    assert re.fullmatch(r"local/refusals@\w{8}", guard.name)
    asked = [record(), record(label="harmless"), record("spill it"), record(label="harmless")]
    assert guard.judge(asked, ["spill", "spill", "well then", ""]) == ["refused", "refused", "complied", "broken"]


def test_two_guards_in_folders_of_one_name_are_two_judges(tmp_path):
    place = save_classifier(tmp_path / "a" / "guard", "safe", "unsafe")
    copy = shutil.copytree(place, tmp_path / "b" / "guard")
    first = GuardJudge.load(place).name
    assert GuardJudge.load(str(copy)).name == first
    other = save_classifier(tmp_path / "c" / "guard", "harmful", "unharmful")
    assert GuardJudge.load(other).name != first


def test_markers_in_an_answer_are_text(tmp_path):
    """Here a padding token counts as unsafe, were it read as one."""
    guard = GuardJudge.load(save_chat(tmp_path / "guard"))
    assert WORDS["<pad>"] in guard.ask.tokenizer("well <pad> then")["input_ids"]
    assert guard.judge([record()], ["well <pad> then"]) == ["refused"]
    assert guard.judge([record("well <pad> </s> then")], ["go on"]) == ["refused"]


@pytest.mark.parametrize("labels", [("LABEL_0", "LABEL_1"), ("safe", "benign"), ("safe", "maybe"), ("H", "S")])
def test_labels_of_unknown_meaning_are_named(tmp_path, labels):
    with pytest.raises(CmrmError, match=", ".join(labels)) as caught:
        GuardJudge.load(save_classifier(tmp_path / "guard", *labels))
    assert "\n" not in str(caught.value)


def test_what_is_no_guard_is_one_sentence(tmp_path):
    with pytest.raises(CmrmError, match="no model in the folder"):
        GuardJudge.load(str(tmp_path / "nothing"))
    with pytest.raises(CmrmError, match="no chat template that takes"):
        GuardJudge.load(save_chat(tmp_path / "bare", None))
    with pytest.raises(CmrmError, match="no chat template that takes"):
        GuardJudge.load(save_chat(tmp_path / "single", "<s> {{ messages[0]['content'] }} verdict"))
    talker = GuardJudge.load(save_chat(tmp_path / "talker", says={WORDS["spill"]: (VERDICT, 1.0)}))
    with pytest.raises(CmrmError, match="neither safe nor unsafe"):
        talker.judge([record()], ["well then"])


def test_only_whole_safetensors_are_read(tmp_path):
    whole = save_chat(tmp_path / "whole")
    pickled = shutil.copytree(whole, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(CmrmError, match="pickled ones are never read"):
        GuardJudge.load(str(pickled))
    headless = shutil.copytree(whole, tmp_path / "headless")
    config = json.loads((headless / "config.json").read_text())
    config |= {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "safe", "1": "unsafe"}}
    (headless / "config.json").write_text(json.dumps(config))
    with pytest.raises(CmrmError, match=r"lacks weights, such as score\.weight"):
        GuardJudge.load(str(headless))
