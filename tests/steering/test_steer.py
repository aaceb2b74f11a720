"""The hooks: the sign, the rows, the layers, and that nothing stays behind."""

import numpy as np
import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from cmrm import CmrmError, LocalEngine, extract_offsets, steer
from cmrm.model.hooks import hooked
from cmrm.steering.vectors import Vectors

PROMPT = "What is this?"


def layer_outputs(vlm, inputs) -> torch.Tensor:
    """Last-position outputs of all layers by plain full forwards, `(layers, rows, hidden)`."""
    seen = {}
    with (
        hooked(dict(enumerate(vlm.layers)), lambda k, hidden: seen.update({k: hidden[:, -1].clone()})),
        torch.no_grad(),
    ):
        vlm.model(**inputs)
    return torch.stack([seen[k] for k in range(len(vlm.layers))])


def batch(inputs, rows):
    return {key: torch.cat([value] * rows) for key, value in inputs.items()}


def test_sign_sample_level_blank_image_alpha_1_lands_on_the_text_only_state(vlm):
    """h_o + 1 (h_t - h_c) with h_o = h_c is h_t, exactly where one layer alone is steered."""
    blank = vlm.encode(PROMPT, vlm.blank("white"))
    text = layer_outputs(vlm, vlm.encode(PROMPT, None))
    plain = layer_outputs(vlm, blank)
    offsets = extract_offsets(LocalEngine(vlm), [PROMPT], estimator="mean", corruption="white")
    for layer in range(len(vlm.layers)):
        with steer(vlm, offsets, 1.0, layers=[layer]):
            steered = layer_outputs(vlm, blank)
        torch.testing.assert_close(steered[layer], text[layer], rtol=1e-4, atol=1e-4)
        assert (plain[layer] - text[layer]).abs().max() > 1e-2


def test_sequential_offsets_land_on_the_text_only_state_at_every_layer_at_once(vlm):
    offsets = extract_offsets(LocalEngine(vlm), [PROMPT], estimator="sequential")
    with steer(vlm, offsets, 1.0):
        steered = layer_outputs(vlm, vlm.encode(PROMPT, vlm.blank("white")))
    torch.testing.assert_close(steered, layer_outputs(vlm, vlm.encode(PROMPT, None)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("positions", ["last", "all"])
def test_row_0_is_bit_identical_and_alpha_0_equals_it(dtype, positions):
    vlm = tiny.vlm(dtype=dtype)
    offsets = extract_offsets(LocalEngine(vlm), ["a cat", "two dogs"], estimator="mean")
    inputs = batch(vlm.encode(PROMPT, tiny.PICTURE), 3)
    with torch.no_grad():
        plain = vlm.model(**inputs).logits
        with steer(vlm, offsets, (0.0, 1.0, 0.0), positions=positions):
            steered = vlm.model(**inputs).logits
    assert torch.equal(plain[0], steered[0])
    assert torch.equal(plain[2], steered[2])
    assert not torch.equal(plain[1], steered[1])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    alphas=st.lists(st.floats(0, 2), min_size=1, max_size=4),
    layers=st.sets(st.integers(0, 3), min_size=1),
    positions=st.sampled_from(["last", "all"]),
)
def test_only_the_chosen_layers_rows_and_positions_are_shifted(vlm, offsets, alphas, layers, positions):
    """At the first steered layer: state + alpha x offset, at the chosen positions; below it, nothing."""
    inputs = batch(vlm.encode(PROMPT, tiny.PICTURE), len(alphas))
    first = min(layers)
    seen = []
    watch = {k: vlm.layers[k] for k in range(first + 1)}

    def run():
        outputs = {}
        with hooked(watch, lambda k, hidden: outputs.update({k: hidden.clone()})), torch.no_grad():
            vlm.model(**inputs)
        seen.append(outputs)

    run()
    with steer(vlm, offsets, alphas, layers=layers, positions=positions):
        run()
    plain, steered = seen
    for below in range(first):
        assert torch.equal(plain[below], steered[below])
    shift = torch.tensor(alphas).view(-1, 1, 1) * torch.from_numpy(offsets.values)[first]
    where = slice(None) if positions == "all" else slice(-1, None)
    expected = plain[first].clone()
    expected[:, where] += shift
    torch.testing.assert_close(steered[first], expected, rtol=1e-5, atol=1e-5)


FORMULAS = {
    "add": lambda h, v, level: v,
    "reach": lambda h, v, level: v - h,
    "project": lambda h, v, level: (level - h @ v) * v,
}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    modes=st.lists(st.sampled_from(sorted(FORMULAS)), min_size=1, max_size=3),
    alpha=st.floats(0, 2),
    layer=st.integers(0, 3),
    level=st.floats(-20, 20),
    seed=st.integers(0, 99),
)
def test_each_mode_does_what_its_formula_says_in_its_own_row(vlm, modes, alpha, layer, level, seed):
    """h + alpha v, h + alpha (v - h), h + alpha (level - h.v) v: one row each, at one layer of one pass."""
    inputs = batch(vlm.encode(PROMPT, tiny.PICTURE), len(modes))
    values = torch.randn(
        len(modes), len(vlm.layers), vlm.identity.hidden, generator=torch.Generator().manual_seed(seed)
    )
    values = normalize(values, dim=-1)
    levels = np.full(len(vlm.layers), level, dtype=np.float32)
    rows = [
        Vectors(one.numpy(), mode, levels if mode == "project" else None)
        for one, mode in zip(values, modes, strict=True)
    ]
    plain = layer_outputs(vlm, inputs)[layer]
    with steer(vlm, rows, alpha, layers=[layer]):
        steered = layer_outputs(vlm, inputs)[layer]
    for row, mode in enumerate(modes):
        delta = FORMULAS[mode](plain[row], values[row, layer], level)
        torch.testing.assert_close(steered[row], plain[row] + alpha * delta, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("steps", "shifted"), [("prompt", 1), ("all", 5)])
def test_steps_say_how_many_forward_passes_are_shifted(vlm, offsets, steps, shifted):
    inputs = vlm.encode(PROMPT, tiny.PICTURE)
    calls = []

    class Counting:
        def delta(self, layer, state):
            calls.append(layer)
            return torch.from_numpy(offsets.values)[layer]

    for _ in range(2):  # a second answer inside the block is steered like the first
        calls.clear()
        with steer(vlm, Counting(), 1.0, layers=[1], steps=steps):
            vlm.model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False)
        assert len(calls) == shifted
    with steer(vlm, Counting(), 1.0, layers=[1], steps="prompt"):
        calls.clear()
        for _ in range(2):
            vlm.model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False)
        assert len(calls) == 2


def test_per_row_steering_gives_each_row_its_own_offsets(vlm, offsets):
    other = extract_offsets(LocalEngine(vlm), ["bake a cake"], estimator="mean")
    inputs = vlm.encode(PROMPT, tiny.PICTURE)
    with steer(vlm, [offsets, other], (1.0, 0.5)):
        both = layer_outputs(vlm, batch(inputs, 2))
    with steer(vlm, offsets, 1.0):
        first = layer_outputs(vlm, inputs)
    with steer(vlm, other, 0.5):
        second = layer_outputs(vlm, inputs)
    torch.testing.assert_close(both, torch.cat([first, second], dim=1), rtol=1e-4, atol=1e-4)


def test_hooks_of_others_survive_and_own_ones_go_even_when_the_block_fails(vlm, offsets):
    foreign = vlm.layers[1].register_forward_hook(lambda *_: None)
    before = vlm.network.hook_count
    with steer(vlm, offsets, 1.0):
        assert vlm.network.hook_count == before + len(vlm.layers)
    with pytest.raises(RuntimeError, match="midway"), steer(vlm, offsets, 1.0):
        raise RuntimeError("midway")
    assert vlm.network.hook_count == before
    assert foreign.id in vlm.layers[1]._forward_hooks
    foreign.remove()


def test_an_error_inside_a_delta_leaves_no_hook(vlm):
    class Broken:
        def delta(self, layer, state):
            raise RuntimeError("in the hook")

    before = vlm.network.hook_count
    with pytest.raises(RuntimeError, match="in the hook"), steer(vlm, Broken(), 1.0):
        layer_outputs(vlm, vlm.encode(PROMPT, None))
    assert vlm.network.hook_count == before


@pytest.mark.parametrize("alpha", [-1, 3, float("nan"), float("inf"), -1e-9, "1", None, [], [0.5, -0.5], True])
def test_alpha_outside_0_to_2_is_refused_below_the_page(vlm, offsets, alpha):
    with pytest.raises(CmrmError, match="alpha"):
        steer(vlm, offsets, alpha)


@pytest.mark.parametrize(
    "options",
    [{"layers": []}, {"layers": [4]}, {"layers": [-1]}, {"positions": "first"}, {"steps": "some"}],
)
def test_bad_places_are_refused(vlm, offsets, options):
    with pytest.raises(CmrmError, match=r"must|Layers go from 0 to 3; -?\d is not one"):
        steer(vlm, offsets, 1.0, **options)


def test_a_batch_of_other_rows_is_refused(vlm, offsets):
    with pytest.raises(CmrmError, match="2 alphas"), steer(vlm, offsets, (0.0, 1.0)):
        layer_outputs(vlm, batch(vlm.encode(PROMPT, None), 3))
