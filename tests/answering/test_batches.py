"""Answers in left-padded batches are those of the prompts one by one."""

import checkpoints
import pytest
import tiny
import torch

from cmrm import LocalEngine, Vlm, extract_offsets, steer
from cmrm.answering.batches import answer_batch, group_alike

PROMPTS = ["What is this?", "And where on earth is it, do you think?", "Why?"]
NAMES = ["llava", "llava_next", "qwen2_5_vl", "gemma3", "idefics3", "paligemma", "mllama"]


@pytest.fixture(scope="module", params=NAMES)
def family(request, tmp_path_factory) -> Vlm:
    folder = tmp_path_factory.mktemp(request.param)
    checkpoints.FAMILIES[request.param].save(folder)
    vlm = Vlm.load(folder, "none", plain_template=request.param == "paligemma")
    vlm.model.to(torch.float32)  # in bfloat16 a batch rounds differently
    return vlm


@pytest.mark.parametrize("image", [tiny.PICTURE, None], ids=["image", "text"])
@pytest.mark.parametrize("steps", ["prompt", "all"])
def test_each_row_is_answered_as_it_is_alone(family, image, steps):
    vlm, before = family, family.network.hook_count
    inputs = [vlm.encode(prompt, image) for prompt in PROMPTS]
    offsets = [extract_offsets(LocalEngine(vlm), [prompt, "hello"], estimator="mean") for prompt in PROMPTS]
    openings = frozenset(range(40))

    def answered(rows):
        steering = steer(vlm, [offsets[k] for k in rows], 1.0, steps=steps)
        return answer_batch(vlm, [inputs[k] for k in rows], steering, max_new_tokens=6, openings=openings)

    together = answered([0, 1, 2])
    alone = [answered([k])[0] for k in range(3)]
    assert [row.ids for row in together] == [row.ids for row in alone]
    assert [row.opening for row in together] == pytest.approx([row.opening for row in alone], abs=1e-4)
    assert vlm.network.hook_count == before


def test_unsteered_it_says_what_stock_generate_says(vlm):
    inputs = [vlm.encode(prompt, tiny.PICTURE) for prompt in PROMPTS]
    for one, row in zip(inputs, answer_batch(vlm, inputs, max_new_tokens=8), strict=True):
        assert row.ids == tiny.generated(vlm, one, 8)


def test_a_checkpoints_own_penalties_do_not_count(vlm, monkeypatch):
    inputs = [vlm.encode("Hi, hi, hi", None)]
    plain = answer_batch(vlm, inputs, max_new_tokens=8, openings=frozenset(range(40)))
    monkeypatch.setattr(vlm.model.generation_config, "repetition_penalty", 3.0)
    monkeypatch.setattr(vlm.model.generation_config, "no_repeat_ngram_size", 1)
    assert answer_batch(vlm, inputs, max_new_tokens=8, openings=frozenset(range(40))) == plain


def test_the_opening_is_a_share_of_the_first_tokens_probability(vlm):
    inputs = vlm.encode("Hi", None)
    expected = tiny.plain(vlm, inputs)[0].softmax(-1)[0, [5, 7]].sum().item()
    [row] = answer_batch(vlm, [inputs], max_new_tokens=2, openings=frozenset({5, 7}))
    assert row.opening == pytest.approx(expected, rel=1e-4)


def test_prompts_share_a_batch_only_with_images_of_one_shape(vlm):
    inputs = [vlm.encode(p, image) for p, image in (("a", None), ("bb", tiny.PICTURE), ("ccc", None))]
    assert list(group_alike(inputs)) == [[0, 2], [1]]


def test_hooks_come_off_when_the_model_fails(vlm, offsets, monkeypatch):
    def broken(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    before = vlm.network.hook_count
    monkeypatch.setattr(vlm.model, "generate", broken)
    with pytest.raises(torch.OutOfMemoryError):
        answer_batch(vlm, [vlm.encode("Hi", None)], steer(vlm, offsets, 1.0), max_new_tokens=2)
    assert vlm.network.hook_count == before
    assert not vlm.network.lock.locked()
