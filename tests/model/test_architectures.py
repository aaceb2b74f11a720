"""Every shortcut against the plain way of computing the same thing, on five architectures and three dtypes."""

import checkpoints
import pytest
import tiny
import torch
from PIL import Image

from cmrm import LocalEngine, Offsets, Vlm, compare, extract_offsets, steer

PROMPT = "What is this, and where is it?"
ANCHORS = ["a cat", "two dogs", "bake bread", "pick locks", "hello there"]
NAMES = ["llava", "llava_next", "qwen2_5_vl", "gemma3", "idefics3"]
# Largest difference of logits (of some 5) and states between a shortcut and the plain way.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.25, "nf4": 0.25}


@pytest.fixture(scope="module", params=[(name, form) for name in NAMES for form in TOLERANCE], ids="-".join)
def case(request, tmp_path_factory):
    name, form = request.param
    folder = tmp_path_factory.mktemp(name)
    checkpoints.FAMILIES[name].save(folder)
    vlm = Vlm.load(folder, "nf4" if form == "nf4" else "none")
    if form != "nf4":
        vlm.model.to(getattr(torch, form))
    return vlm, TOLERANCE[form]


@pytest.mark.parametrize("image", [tiny.PICTURE, None], ids=["image", "text"])
def test_prefill_once_and_fan_out_to_three_rows(case, image):
    vlm, tolerance = case
    inputs = vlm.encode(PROMPT, image)
    vlm.network.prefixes.clear()
    ids = inputs["input_ids"]
    context = vlm.network.read(inputs, ids.shape[1] - 1).fan_out(3)
    shared = vlm.network.forward({"input_ids": ids[:, -1:].expand(3, -1)}, context, torch.no_grad())[:, -1]
    torch.testing.assert_close(shared, tiny.plain(vlm, inputs)[0].expand(3, -1), rtol=0, atol=tolerance)


@pytest.mark.parametrize("image", [tiny.PICTURE, None], ids=["image", "text"])
def test_row_0_and_what_stock_generate_answers(case, image):
    """Equal in float32; other dtypes round differently at another batch shape, so there the loop is compared."""
    vlm, tolerance = case
    offsets = extract_offsets(LocalEngine(vlm), ANCHORS, estimator="mean")
    *_, step = compare(vlm, image, PROMPT, offsets, (0.0, 1.0), max_new_tokens=12)
    assert step.rows[0].ids == step.rows[1].ids
    nothing = Offsets(offsets.values * 0, fits=vlm.identity)
    *_, bare = compare(vlm, image, PROMPT, nothing, (1.0, 1.0), max_new_tokens=12)
    assert step.rows[0].ids == bare.rows[0].ids
    if tolerance < 0.01:
        assert tiny.generated(vlm, vlm.encode(PROMPT, image), 12) == step.rows[0].ids


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """How far two tensors are apart, as a share of the other's norm."""
    return ((one - other).norm() / other.norm()).item()


def relative(tolerance: float) -> float:
    """1e-3 in float32, a tenth where states have 8 bits: zeros would be a whole 1 apart."""
    return 1e-3 if tolerance < 0.01 else 0.1


def test_kept_prefixes_change_nothing_and_prompts_in_between_do_not_mix(case):
    vlm, _ = case
    other = Image.new("RGB", (50, 50), "red")
    offsets = extract_offsets(LocalEngine(vlm), ANCHORS[:2], estimator="mean")

    def ask(image, prompt):
        *_, step = compare(vlm, image, prompt, offsets, (1.0,), max_new_tokens=8)
        return [row.ids for row in step.rows]

    fresh = []
    for image, prompt in ((tiny.PICTURE, PROMPT), (other, "Why?"), (None, PROMPT)):
        vlm.network.prefixes.clear()
        fresh.append(ask(image, prompt))
    ask(tiny.PICTURE, PROMPT)
    assert [ask(tiny.PICTURE, PROMPT), ask(other, "Why?"), ask(None, PROMPT)] == fresh
    one = compare(vlm, tiny.PICTURE, PROMPT, offsets, (1.0,), max_new_tokens=8)
    two = compare(vlm, other, "Why?", offsets, (1.0,), max_new_tokens=8)
    steps = list(zip(one, two, strict=False))[-1]
    assert [[row.ids[:8] for row in step.rows] for step in steps] == fresh[:2]


def test_batched_extraction_with_the_image_read_once(case):
    vlm, tolerance = case
    blank = vlm.blank("white")
    gaps = [tiny.plain(vlm, vlm.encode(a, None))[1] - tiny.plain(vlm, vlm.encode(a, blank))[1] for a in ANCHORS]
    expected = torch.cat(gaps).mean(0)
    offsets = extract_offsets(LocalEngine(vlm), ANCHORS, estimator="mean")
    assert apart(torch.from_numpy(offsets.values), expected) <= relative(tolerance)


def test_the_steered_state_at_a_single_layer(case):
    vlm, tolerance = case
    offsets = extract_offsets(LocalEngine(vlm), [PROMPT], estimator="mean")
    inputs = vlm.encode(PROMPT, vlm.blank("white"))
    text = tiny.plain(vlm, vlm.encode(PROMPT, None))[1]
    for layer in range(len(vlm.layers)):
        with steer(vlm, offsets, 1.0, layers=[layer]):
            steered = tiny.plain(vlm, inputs)[1]
        assert apart(steered[:, layer], text[:, layer]) <= relative(tolerance)
    before = vlm.network.hook_count
    list(compare(vlm, tiny.PICTURE, PROMPT, offsets, max_new_tokens=3))
    assert vlm.network.hook_count == before
