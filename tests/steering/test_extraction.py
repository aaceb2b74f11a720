"""Offsets against the plain way of computing them: one full forward pass a state."""

import numpy as np
import pytest
import tiny
import torch

from cmrm import CmrmError, LocalEngine, Vlm, extract_each, extract_offsets, steer
from cmrm.model.hooks import hooked

ANCHORS = ["a cat", "two dogs", "bake bread", "pick a lock", "hello there", "how are you today?"]


def plain_states(vlm, prompts, image, steering=None, layers=()):
    """Layer outputs at the last prompt token, one unbatched pass a prompt, `(prompts, layers, hidden)`."""
    rows = []
    for prompt in prompts:
        seen = {}
        watch = hooked(
            dict(enumerate(vlm.layers)), lambda k, hidden, seen=seen: seen.update({k: hidden[0, -1].float()})
        )
        inputs = vlm.encode(prompt, image)
        with torch.no_grad():
            if steering is None or not layers:
                with watch:
                    vlm.model(**inputs)
            else:
                with steer(vlm, steering, 1.0, layers=layers), watch:
                    vlm.model(**inputs)
        rows.append(torch.stack([seen[k] for k in range(len(vlm.layers))]))
    return torch.stack(rows)


@pytest.mark.parametrize("corruption", ["white", "black", "mean", "noise"])
def test_mean_is_the_mean_of_text_minus_corrupted(vlm, corruption):
    offsets = extract_offsets(LocalEngine(vlm), ANCHORS, estimator="mean", corruption=corruption)
    gaps = plain_states(vlm, ANCHORS, None) - plain_states(vlm, ANCHORS, vlm.blank(corruption))
    torch.testing.assert_close(torch.from_numpy(offsets.values), gaps.mean(0), rtol=1e-3, atol=1e-3)


def test_pc1_points_along_the_mean_and_is_as_long_as_the_mean_projection(vlm):
    offsets = extract_offsets(LocalEngine(vlm), ANCHORS, estimator="pc1")
    gaps = plain_states(vlm, ANCHORS, None) - plain_states(vlm, ANCHORS, vlm.blank("white"))
    for layer, vector in enumerate(torch.from_numpy(offsets.values)):
        rows = gaps[:, layer]
        covariance = torch.cov(rows.T.double())
        top = torch.linalg.eigh(covariance).eigenvectors[:, -1].float()
        unit = vector / vector.norm()
        assert abs(unit @ top) > 0.999
        assert unit @ rows.mean(0) > 0
        assert vector.norm() == pytest.approx((rows @ unit).abs().mean().item(), rel=1e-3)


def test_sequential_is_the_gap_left_with_the_layers_below_steered(vlm):
    offsets = extract_offsets(LocalEngine(vlm), ANCHORS, estimator="sequential")
    text = plain_states(vlm, ANCHORS, None)
    for layer in range(len(vlm.layers)):
        steered = plain_states(vlm, ANCHORS, vlm.blank("white"), offsets, range(layer))
        torch.testing.assert_close(
            torch.from_numpy(offsets.values)[layer], (text - steered)[:, layer].mean(0), rtol=1e-3, atol=2e-3
        )


def test_one_batch_and_many_batches_give_the_same_sequential_offsets(vlm, monkeypatch):
    same_length = ["abcd", "efgh", "ijkl"]
    at_once = extract_offsets(LocalEngine(vlm), same_length, estimator="sequential")
    monkeypatch.setattr("cmrm.steering.reading.BATCH", 2)
    in_two = extract_offsets(LocalEngine(vlm), same_length, estimator="sequential")
    np.testing.assert_allclose(at_once.values, in_two.values, rtol=1e-3, atol=1e-3)


def test_prompt_offsets_are_those_of_one_anchor(vlm):
    for estimator in ("mean", "sequential"):
        [sample, _] = extract_each(LocalEngine(vlm), [ANCHORS[2], ANCHORS[0]], estimator=estimator)
        alone = extract_offsets(LocalEngine(vlm), [ANCHORS[2]], estimator=estimator)
        np.testing.assert_allclose(sample.values, alone.values, rtol=1e-3, atol=1e-3)
    gap = plain_states(vlm, ANCHORS[2:3], None) - plain_states(vlm, ANCHORS[2:3], vlm.blank("white"))
    alone = extract_offsets(LocalEngine(vlm), [ANCHORS[2]], estimator="mean")
    np.testing.assert_allclose(alone.values, gap[0].numpy(), rtol=1e-3, atol=1e-3)


def test_a_template_with_the_image_behind_the_text_needs_no_shared_prefix():
    processor = tiny.processor()
    processor.chat_template = (
        "{% for part in messages[0]['content'] | reverse %}"
        "{% if part['type'] == 'image' %}<image>{% else %}Q: {{ part['text'] }}{% endif %}{% endfor %} A:"
    )
    vlm = Vlm(tiny.llava(), processor)
    offsets = extract_offsets(LocalEngine(vlm), ANCHORS, estimator="mean")
    gaps = plain_states(vlm, ANCHORS, None) - plain_states(vlm, ANCHORS, vlm.blank("white"))
    torch.testing.assert_close(torch.from_numpy(offsets.values), gaps.mean(0), rtol=1e-3, atol=1e-3)


def test_progress_rises_to_its_total_and_hooks_are_gone(vlm):
    seen = []
    before = vlm.network.hook_count
    extract_offsets(LocalEngine(vlm), ANCHORS, report=lambda step: seen.append((step.done, step.total)))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert {total for _, total in seen} == {len(seen)}
    assert vlm.network.hook_count == before


def test_the_origin_says_how_offsets_were_made(vlm):
    offsets = extract_offsets(LocalEngine(vlm), ANCHORS, estimator="pc1", corruption="noise")
    assert (offsets.origin.estimator, offsets.origin.corruption, offsets.origin.anchors) == ("pc1", "noise", 6)
    assert offsets.origin.anchors_sha256 != extract_offsets(LocalEngine(vlm), ANCHORS[:5]).origin.anchors_sha256
    assert offsets.fits == vlm.identity


@pytest.mark.parametrize(
    ("anchors", "options", "says"),
    [
        ([], {}, "anchor set is empty"),
        ("a text", {}, "anchor set"),
        (["ok", " "], {}, "empty"),
        (["ok"], {"estimator": "median"}, "estimator"),
        (["ok"], {"corruption": "red"}, "corruption"),
    ],
)
def test_bad_anchors_and_options_are_one_sentence(vlm, anchors, options, says):
    with pytest.raises(CmrmError, match=says):
        extract_offsets(LocalEngine(vlm), anchors, **options)


def test_a_prompt_beyond_the_context_is_refused_before_any_pass(vlm):
    with pytest.raises(CmrmError, match=r"more than the model's context"):
        extract_offsets(LocalEngine(vlm), ["why " * 3000])


def test_a_layer_that_does_not_run_is_refused_and_leaves_no_hook(vlm, monkeypatch):
    lost = torch.nn.Identity()
    monkeypatch.setattr(vlm, "layers", (*vlm.layers[:-1], lost))
    with pytest.raises(CmrmError, match="did not run"):
        extract_offsets(LocalEngine(vlm), ["a cat"], estimator="mean")
    assert not lost._forward_hooks
