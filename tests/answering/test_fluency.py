"""Log-probabilities of many answers, each behind its own prompt."""

import checkpoints
import pytest
import tiny
import torch

from cmrm import Vlm
from cmrm.answering.fluency import BATCH, mean_log_probabilities, pair_log_probabilities

PROMPTS = ["Hi", "What is this?", "Tell me about the cat and the dog and the long road home.", "a", "Bake bread"]
# Causal, M-RoPE, a sliding window shorter than the prompts, and a prompt read in both directions.
KINDS = ("llava", "qwen2_5_vl", "gemma3", "paligemma")


@pytest.fixture(scope="module", params=KINDS)
def model(request, tmp_path_factory):
    family = checkpoints.FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    family.save(folder)
    loaded = Vlm.load(folder, "none", plain_template=not family.template)
    loaded.model.bfloat16().float()  # the same weights on a CPU that loads them in float32
    return loaded


def pairs(vlm, image=None):
    answers = [list(range(40 + k, 40 + 4 * k, 2)) for k in range(1, 2 * BATCH)]
    prompts = [vlm.encode(PROMPTS[k % len(PROMPTS)] + "!" * k, image) for k in range(len(answers))]
    return prompts, answers


def directly(vlm, prompt, answer) -> float:
    """One plain full forward pass of prompt and answer."""
    for module in vlm.network.rope_modules:
        module.rope_deltas = None
    whole = torch.cat([prompt["input_ids"], torch.tensor([answer])], dim=1)
    with torch.no_grad():
        logits = vlm.model(input_ids=whole).logits[0, -len(answer) - 1 : -1].float()
    return logits.log_softmax(-1)[range(len(answer)), answer].mean().item()


def test_pairs_are_scored_as_each_alone(model):
    prompts, answers = pairs(model)
    scores = pair_log_probabilities(model.network, prompts, answers)
    one_by_one = [mean_log_probabilities(model.network, p, [a])[0] for p, a in zip(prompts, answers, strict=True)]
    assert scores == pytest.approx(one_by_one, abs=1e-3)
    assert len({round(score, 3) for score in scores}) == len(scores)


def test_pairs_are_scored_as_by_a_full_forward(model):
    if model.network.plain_batch:
        pytest.skip("a plain pass over prompt and answer would read the answer in both directions")
    prompts, answers = pairs(model)
    expected = [directly(model, p, a) for p, a in zip(prompts, answers, strict=True)]
    assert pair_log_probabilities(model.network, prompts, answers) == pytest.approx(expected, abs=1e-3)


def test_short_prompts_run_together(vlm, monkeypatch):
    passes = []
    monkeypatch.setattr(vlm.model, "forward", counted(vlm.model.forward, passes))
    prompts, answers = pairs(vlm)
    pair_log_probabilities(vlm.network, prompts, answers)
    assert passes == [BATCH, len(prompts) - BATCH]


def counted(forward, passes):
    def count(**inputs):
        passes.append(len(inputs["input_ids"]))
        return forward(**inputs)

    return count


def test_a_prompt_with_an_image_is_read_with_it(vlm):
    prompts, answers = pairs(vlm, tiny.PICTURE)
    mixed = [*prompts[:2], *pairs(vlm)[0][:2]]
    expected = [mean_log_probabilities(vlm.network, p, [a])[0] for p, a in zip(mixed, answers, strict=False)]
    assert pair_log_probabilities(vlm.network, mixed, answers[:4]) == pytest.approx(expected, abs=1e-4)


def test_an_answer_without_tokens_has_no_score(vlm):
    prompts, answers = pairs(vlm)
    assert pair_log_probabilities(vlm.network, [], []) == []
    assert pair_log_probabilities(vlm.network, prompts[:2], [[], []]) == [None, None]
    alone = pair_log_probabilities(vlm.network, prompts[:1], answers[:1])
    assert pair_log_probabilities(vlm.network, prompts[:2], [answers[0], ()]) == [
        pytest.approx(alone[0], abs=1e-4),
        None,
    ]
    with pytest.raises(ValueError, match="zip"):
        pair_log_probabilities(vlm.network, prompts[:2], answers[:1])
