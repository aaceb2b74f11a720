"""Guard models as judges: tiny ones whose weights are set so that one word makes an answer unsafe."""

import json
import re
import shutil

import pytest
import torch
from guards import PARTS, VERDICT, WORDS, save_chat, save_classifier, save_seen

from cmrm import CmrmError
from cmrm.data.records import Record
from cmrm.judging.guard import GuardJudge
from cmrm.judging.judges import Judge


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
    with pytest.raises(CmrmError, match=r"lacks 1 of its weights \(score\.weight\)"):
        GuardJudge.load(str(headless))
