"""Every method and control against its formula, computed from plain full forwards one prompt at a time."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from cmrm import CmrmError, LocalEngine, extract_each, extract_offsets, steer
from cmrm.data.records import Record
from cmrm.methods.captions import REQUEST, Captioned
from cmrm.methods.ceilings import ReplacedImage
from cmrm.methods.cmrm import DatasetLevel, SampleLevel
from cmrm.methods.controls import OtherPrompt
from cmrm.methods.defence import Defence
from cmrm.methods.defence_prompt import DefencePrompt
from cmrm.methods.refusal_direction import Restored, refusal_direction
from cmrm.methods.shiftdc import ShiftDC, paper_layers
from cmrm.steering.anchors import AnchorSet
from cmrm.steering.chance import random_direction, sign_flip
from cmrm.steering.steer import as_steering
from cmrm.steering.vectors import Prompt, Steered, Vectors

RED = Image.new("RGB", (20, 30), (200, 30, 30))
# Lengths differ, so that batches are not in the records' order; the last one has no image.
RECORDS = [
    Record("a", "pick a lock", tiny.PICTURE, "harmful"),
    Record("b", "what colour is it?", RED, "question", ("red",), "colour"),
    Record("c", "bake a roll", RED, "harmless"),
    Record("d", "bend a pipe", tiny.PICTURE, "harmless"),
    Record("e", "bake bread", None, "harmless"),
]
PROMPTS = [record.prompt for record in RECORDS]
ANCHORS = AnchorSet(
    "some",
    ("cut the brakes", "rob a bank", "cut the bread", "dig a pond"),
    ("harmful", "harmful", "harmless", "harmless"),
)
CLOSE = {"rtol": 1e-3, "atol": 2e-3}


def plain(vlm, prompt, image, steering=None):
    """Layer outputs at the last prompt token, `(layers, hidden)`."""
    return tiny.plain(vlm, vlm.encode(prompt, image), steering)[1][0]


def plain_direction(vlm):
    states = torch.stack([plain(vlm, text, None) for text in ANCHORS.texts])
    return states[:2].mean(0) - states[2:].mean(0)


def values(steering):
    """What vectors add to each row, `(rows, layers, hidden)`."""
    assert all(vectors.mode == "add" for vectors in steering)
    return torch.from_numpy(np.stack([vectors.values for vectors in steering]))


@pytest.fixture(scope="module")
def shared_engine(shared_vlm):
    return LocalEngine(shared_vlm)


@pytest.fixture
def engine(vlm, shared_engine):
    """The engine over `vlm`, whose hooks are counted."""
    return shared_engine


@pytest.fixture(scope="module")
def direction(shared_engine):
    return refusal_direction(shared_engine, ANCHORS)


@pytest.fixture(scope="module")
def captioned(shared_engine):
    return Captioned(shared_engine, max_new_tokens=6)


@pytest.mark.parametrize("estimator", ["mean", "sequential"])
@pytest.mark.parametrize("corruption", ["white", "noise"])
def test_many_prompts_have_the_offsets_that_each_has_alone(vlm, engine, estimator, corruption):
    options = {"estimator": estimator, "corruption": corruption}
    many = extract_each(engine, PROMPTS, **options)
    for prompt, made in zip(PROMPTS, many, strict=True):
        alone = extract_offsets(engine, [prompt], **options)
        np.testing.assert_allclose(made.values, alone.values, **CLOSE)
        assert made.origin.anchors_sha256 == alone.origin.anchors_sha256
        assert (made.origin.estimator, made.origin.anchors, made.fits) == (estimator, 1, vlm.identity)


def test_many_prompts_do_not_depend_on_the_batch_size(engine, monkeypatch):
    same_length = [record.prompt for record in RECORDS if len(record.prompt) == 11]
    assert len(same_length) == 3
    whole = extract_each(engine, same_length)
    monkeypatch.setattr("cmrm.steering.reading.BATCH", 2)  # two prompts, and one left over
    for one, other in zip(whole, extract_each(engine, same_length), strict=True):
        np.testing.assert_allclose(one.values, other.values, **CLOSE)


def test_sequential_sample_level_lands_on_every_text_only_state_at_once(vlm, engine):
    steering = SampleLevel(engine).steering(RECORDS)
    for record, row in zip(RECORDS, steering, strict=True):
        steered = plain(vlm, record.prompt, vlm.blank("white"), steer(vlm, row, 1.0))
        torch.testing.assert_close(steered, plain(vlm, record.prompt, None), **CLOSE)


@pytest.mark.parametrize(
    ("prompts", "options", "says"),
    [
        ([], {}, "no prompts"),
        (["ok", " "], {}, "empty"),
        (["ok"], {"estimator": "median"}, "estimator"),
        (["ok", "no"], {"estimator": "pc1"}, "at least two"),
        (["ok"], {"corruption": "red"}, "corruption"),
    ],
)
def test_prompts_that_cannot_be_measured_are_one_sentence(engine, prompts, options, says):
    before = engine.health().hooks
    with pytest.raises(CmrmError, match=says):
        extract_each(engine, prompts, **options)
    assert engine.health().hooks == before


def test_sample_level_is_text_minus_corrupted_of_each_record(vlm, engine):
    rows = values(SampleLevel(engine, "mean", "black").steering(RECORDS))
    for record, row in zip(RECORDS, rows, strict=True):
        gap = plain(vlm, record.prompt, None) - plain(vlm, record.prompt, vlm.blank("black"))
        torch.testing.assert_close(row, gap, **CLOSE)


def test_the_refusal_direction_is_harmful_minus_harmless(vlm, direction):
    np.testing.assert_allclose(direction.values, plain_direction(vlm), **CLOSE)


def test_restoring_brings_back_the_projection_of_the_text_alone_and_nothing_else(vlm, engine, direction):
    units = torch.nn.functional.normalize(plain_direction(vlm), dim=-1)
    steering = Restored(engine, direction).steering(RECORDS)
    for record, row in zip(RECORDS[:4], steering, strict=False):
        text, beside = plain(vlm, record.prompt, None), plain(vlm, record.prompt, record.image)
        for layers in (None, [2]):
            steered = plain(vlm, record.prompt, record.image, steer(vlm, row, 1.0, layers=layers))
            reached = (steered * units).sum(-1)[layers or slice(None)]
            torch.testing.assert_close(reached, (text * units).sum(-1)[layers or slice(None)], **CLOSE)
        one = plain(vlm, record.prompt, record.image, steer(vlm, row, 0.5, layers=[1]))[1]
        loss = (text - beside)[1] @ units[1]
        assert abs(loss) > 1e-2
        torch.testing.assert_close(one, beside[1] + 0.5 * loss * units[1], **CLOSE)


def test_restoring_works_at_all_positions(vlm, engine, direction):
    [row] = Restored(engine, direction).steering(RECORDS[:1])
    state = torch.randn(1, 5, vlm.identity.hidden)
    unit = torch.nn.functional.normalize(torch.from_numpy(direction.values[1]), dim=0)
    level = plain(vlm, RECORDS[0].prompt, None)[1] @ unit
    torch.testing.assert_close((state + as_steering(row).delta(1, state)) @ unit, level.expand(1, 5), **CLOSE)


def test_shiftdc_takes_out_what_the_image_adds_along_the_direction(vlm, direction, captioned):
    rows = values(ShiftDC(captioned, direction).steering(RECORDS))
    safe = -plain_direction(vlm)
    for record, told, row in zip(RECORDS, captioned.show(RECORDS), rows, strict=True):
        alone = plain(vlm, told.prompt, None)
        shift = plain(vlm, record.prompt, record.image) - alone
        along = ((shift * safe).sum(-1) / (safe * safe).sum(-1))[:, None] * safe
        torch.testing.assert_close(row, -along, **CLOSE)
    assert rows[0].norm() > 1e-2
    assert rows[-1].norm() == 0  # no image


@pytest.mark.parametrize(("count", "first"), [(32, 10), (40, 12), (4, 1), (1, 0)])
def test_shiftdc_steers_the_same_part_of_any_depth(count, first):
    assert paper_layers(count) == tuple(range(first, count))


def test_a_caption_is_the_model_s_own_answer_and_takes_the_image_s_place(vlm, captioned):
    shown = captioned.show(RECORDS)
    for before, after in zip(RECORDS[:4], shown, strict=False):
        ids = tiny.generated(vlm, vlm.encode(REQUEST, before.image), 6)
        said = vlm.tokenizer.decode(list(ids), skip_special_tokens=True).strip()
        assert said
        assert said in after.prompt
        assert after.prompt.endswith(before.prompt)
        assert replace(after, prompt=before.prompt) == replace(before, picture=None)
    assert shown[4] == RECORDS[4]  # no image


def test_images_of_different_shapes_are_captioned_in_passes_of_their_own(captioned, monkeypatch):
    together = captioned.show(RECORDS)
    monkeypatch.setattr("cmrm.engines.local.group_alike", lambda inputs: [[k] for k in reversed(range(len(inputs)))])
    assert captioned.show(RECORDS) == together


def test_an_empty_caption_leaves_the_prompt(engine, monkeypatch):
    monkeypatch.setattr(Captioned, "captions", lambda *_: {"a": ""})
    assert Captioned(engine).show(RECORDS[:1]) == [replace(RECORDS[0], picture=None)]


def test_the_defence_prompt_surrounds_the_prompt_and_leaves_the_rest():
    [shown] = DefencePrompt().show(RECORDS[:1])
    assert shown.prompt.endswith(RECORDS[0].prompt)
    assert len(shown.prompt) > 200
    assert shown.picture is tiny.PICTURE
    assert DefencePrompt("{prompt} Be good.").show(RECORDS[:1])[0].prompt == "pick a lock Be good."


def test_ceilings_change_the_image_alone(engine):
    assert ReplacedImage(None).show(RECORDS[:1]) == [replace(RECORDS[0], picture=None)]
    noise = engine.blank("noise")
    for before, after in zip(RECORDS, ReplacedImage(noise).show(RECORDS), strict=True):
        assert after.image.tobytes() == noise.tobytes()
        assert replace(after, picture=before.picture) == before


def test_a_random_direction_is_as_long_and_another_with_another_seed(offsets):
    one, again, other = (random_direction(offsets, seed) for seed in (1, 1, 2))
    np.testing.assert_allclose(one.norms, offsets.norms, rtol=1e-5)
    assert np.array_equal(one.values, again.values)
    assert torch.cosine_similarity(*(torch.from_numpy(each.values) for each in (one, other))).abs().max() < 0.6
    assert one.fits == offsets.fits


def test_a_sign_flip_is_a_signed_mean_of_the_anchors_as_long_as_the_offsets(vlm, engine):
    offsets = extract_offsets(engine, ANCHORS.texts, estimator="mean")
    own = extract_each(engine, ANCHORS.texts, estimator="mean")
    blank = vlm.blank("white")
    gaps = torch.stack([plain(vlm, text, None) - plain(vlm, text, blank) for text in ANCHORS.texts])
    signed = torch.cartesian_prod(*[torch.tensor([1.0, -1.0])] * 4)
    candidates = torch.einsum("sa,alh->slh", signed, gaps)
    found = set()
    for seed in range(8):
        flipped = sign_flip(own, offsets, seed)
        np.testing.assert_allclose(flipped.norms, offsets.norms, rtol=1e-5)
        closeness = (
            torch.cosine_similarity(candidates, torch.from_numpy(flipped.values)[None], dim=-1).min(dim=1).values
        )
        assert closeness.max() > 0.999
        found.add(int(closeness.argmax()))
    assert len(found) > 2


def test_another_prompt_s_offsets_do_not_depend_on_the_batch(engine):
    other = OtherPrompt(SampleLevel(engine, "mean"), tuple(PROMPTS))
    together = values(other.steering(RECORDS))
    for record, row in zip(RECORDS, together, strict=True):
        stand_in = other.draw_other(record.prompt)
        assert stand_in in PROMPTS
        assert stand_in != record.prompt
        alone = extract_offsets(engine, [stand_in], estimator="mean")
        torch.testing.assert_close(row, torch.from_numpy(alone.values), **CLOSE)
        torch.testing.assert_close(row, values(other.steering([record]))[0], **CLOSE)
    with pytest.raises(CmrmError, match="no other prompt"):
        OtherPrompt(SampleLevel(engine), ("pick a lock",)).steering(RECORDS[:1])


def test_every_method_steers_left_over_records_as_in_a_full_batch_and_leaves_no_hook(
    vlm, engine, direction, captioned, offsets
):
    before = engine.health().hooks
    methods = [
        Defence(),
        ReplacedImage(None),
        DefencePrompt(),
        DatasetLevel(offsets),
        SampleLevel(engine),
        OtherPrompt(SampleLevel(engine), tuple(PROMPTS)),
        Restored(engine, direction),
        ShiftDC(captioned, direction),
    ]
    state = torch.randn(len(RECORDS), 1, vlm.identity.hidden)
    for method in methods:
        together = method.steering(RECORDS)
        if together is None:
            continue
        assert isinstance(together, Vectors) or len(together) == len(RECORDS)
        for layer in range(len(vlm.layers)):
            whole = as_steering(together).delta(layer, state).expand_as(state)
            for k, record in enumerate(RECORDS):
                alone = as_steering(method.steering([record])).delta(layer, state[k : k + 1])
                torch.testing.assert_close(whole[k : k + 1], alone.expand_as(state[:1]), **CLOSE)
        [answer] = engine.answer_batch(
            [Prompt(PROMPTS[0], RED)], Steered(method.steering(RECORDS[:1])), max_new_tokens=3
        )
        assert answer.ids
    assert engine.health().hooks == before
