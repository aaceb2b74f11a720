"""Why answers differ: every number against a direct computation, and nothing left on the model."""

import dataclasses
import json

import numpy as np
import pytest
import serving
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cmrm import CmrmError, Settings, compare, steer
from cmrm.explaining.explain import compute_gaps, project
from cmrm.explaining.explanation import END, Explanation
from cmrm.judging.openings import refusal_openings
from cmrm.progress import Progress, finish
from cmrm.steering.anchors import load_anchors
from cmrm.steering.extraction import read_states
from cmrm.steering.vectors import Prompt
from cmrm.workbench import Workbench

PROMPT = "Hello there, what is this?"
ALPHA = 0.8


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return serving.workbench()


@pytest.fixture(autouse=True)
def no_hook_is_left(bench: Workbench):
    before = [dict(module._forward_hooks) for module in bench.engine.vlm.model.modules()]
    yield
    assert [dict(module._forward_hooks) for module in bench.engine.vlm.model.modules()] == before


def explain(bench: Workbench, image, prompt: str, offsets=None, answers=None, **choices) -> Explanation:
    return finish(bench.explain(image, prompt, Settings(**choices), offsets, answers))


@pytest.fixture(scope="module")
def found(bench: Workbench):
    return explain(bench, tiny.PICTURE, PROMPT, alpha=ALPHA, max_new_tokens=12)


def with_recipe(bench: Workbench, **changes) -> Workbench:
    recipes = {name: dataclasses.replace(recipe, **changes) for name, recipe in bench.recipes.items()}
    return dataclasses.replace(bench, recipes=recipes)


def direct(bench: Workbench, image, alpha: float = 0.0):
    """Logits and states of the prompt's last token, by one full forward pass."""
    logits, states = tiny.plain(
        bench.engine.vlm, bench.engine.vlm.encode(PROMPT, image), steer(bench.engine.vlm, bench.offsets, alpha)
    )
    return logits[0], states[0].numpy()


def near(values, tolerance=1e-4):
    return pytest.approx(np.asarray(values), rel=tolerance, abs=tolerance)


def test_states_of_the_prompt(bench, found):
    text, before, after = (direct(bench, *how)[1] for how in ((None,), (tiny.PICTURE,), (tiny.PICTURE, ALPHA)))
    norms = np.linalg.norm(before, axis=1)
    assert found.added == near(ALPHA * np.linalg.norm(bench.offsets.values, axis=1) / norms)
    assert found.moved == near(np.linalg.norm(after - before, axis=1) / norms)
    assert not found.alone
    for name, states in (("unsteered", before), ("steered", after)):
        expected = torch.nn.functional.cosine_similarity(torch.tensor(states), torch.tensor(text), dim=1)
        assert found.cosines[name] == near(expected.numpy())


def test_projections_are_on_the_unit_difference_of_the_anchor_groups(bench, found):
    anchors = load_anchors(serving.ANCHORS)
    chosen = {name: anchors.only(name).texts for name in ("harmful", "harmless")}
    count = found.groups.count("harmful")
    assert found.groups.count("harmless") == count == 4
    means = {}
    for name, texts in chosen.items():
        means[name] = read_states(bench.engine, [Prompt(text) for text in texts]).mean(axis=0)
    direction = means["harmful"] - means["harmless"]
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    states = {
        "text only": direct(bench, None)[1],
        "unsteered": direct(bench, tiny.PICTURE)[1],
        "steered": direct(bench, tiny.PICTURE, ALPHA)[1],
        **means,
    }
    assert found.projections.keys() == states.keys()
    for name, state in states.items():
        assert found.projections[name] == near((state * direction).sum(axis=1), 1e-3)


def test_refusal_openings_along_alpha(bench, found):
    assert len(found.alphas) == 10
    assert found.alphas[0] == 0
    assert found.alphas[-1] == 2
    assert ALPHA in found.alphas
    for alpha, probability in zip(found.alphas, found.openings, strict=True):
        logits = direct(bench, tiny.PICTURE, alpha)[0]
        assert probability == near(logits.softmax(0)[sorted(refusal_openings(bench.engine.tokenizer))].sum().item())


def test_unsteered_layers_add_nothing(bench):
    some = explain(with_recipe(bench, layers=(1, 2)), tiny.PICTURE, PROMPT, alpha=1.0, answers=((), ()))
    assert some.layers == (1, 2)
    assert [share > 0 for share in some.added] == [False, True, True, False]
    # Nothing, but that float32 rows of one batch may round differently where they stand.
    zero = dataclasses.replace(bench.offsets, values=bench.offsets.values * 0)
    still = explain(bench, tiny.PICTURE, PROMPT, alpha=1.0, answers=((), ()), offsets=zero)
    assert some.moved[0] == still.moved[0] == pytest.approx(0, abs=1e-6)
    assert some.moved[3] > 0  # what the layers below carried


def test_without_an_image_the_unsteered_state_is_the_text_only_one(bench):
    alone = explain(bench, None, PROMPT, answers=((), ()))
    assert alone.alone
    assert alone.cosines["unsteered"] == near(np.ones(4))
    assert alone.gaps[0].anchors["image"] == alone.gaps[0].anchors["blank image"]


@pytest.mark.parametrize(
    ("prompt", "steps", "alpha", "expected"),
    [
        ("Why?", "prompt", 1.0, 0),
        ("Why?", "prompt", 0.2, 7),
        ("a b c", "all", 0.1, 6),
        ("Tell me more.", "all", 0.1, 2),
    ],
)
def test_where_greedy_answers_part_each_has_its_own_likeliest_token(bench, prompt, steps, alpha, expected):
    vlm, asked = bench.engine.vlm, with_recipe(bench, steps=steps)
    *_, last = compare(vlm, tiny.PICTURE, prompt, bench.offsets, (alpha,), max_new_tokens=24, steps=steps)
    ids = [list(row.ids) for row in last.rows]
    parting = explain(asked, tiny.PICTURE, prompt, alpha=alpha, answers=ids).parting
    place = parting.place
    assert place == expected
    assert ids[0][:place] == ids[1][:place]
    for row, name in zip(ids, ("unsteered", "steered"), strict=True):
        best = max(parting.candidates, key=lambda one, name=name: getattr(one, name))
        before, after = (vlm.tokenizer.decode(row[:end]).rstrip("\ufffd") for end in (place, place + 1))
        assert best.text == (after[len(before) :] or vlm.tokenizer.convert_ids_to_tokens(row[place]))
    inputs = vlm.encode(prompt, tiny.PICTURE)
    more = torch.tensor([ids[0][:place]], dtype=torch.long)
    inputs = {**inputs, "input_ids": torch.cat([inputs["input_ids"], more], dim=1)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    top = tiny.plain(vlm, inputs)[0][0].softmax(0).topk(5).values
    assert sorted((one.unsteered for one in parting.candidates), reverse=True)[:5] == near(top.numpy())
    assert explain(asked, tiny.PICTURE, prompt, alpha=alpha, max_new_tokens=24).parting == parting


def test_tokens_around_the_parting(bench):
    def parting(*texts: str):
        ids = [tuple(bench.engine.vlm.tokenizer.encode(text, add_special_tokens=False)) for text in texts]
        return explain(bench, None, PROMPT, answers=ids).parting

    apart = parting("I am here to help you, yes", "I am here to hinder")
    assert apart.place == len("I am here to h")
    assert "".join(apart.unsteered) == "I am here to help you, yes"[apart.start :]
    assert apart.unsteered[apart.place - apart.start] == "e"
    assert apart.steered[apart.place - apart.start] == "i"
    over = parting("Yes", "Yes, but")
    assert (over.place, over.unsteered, over.steered[3]) == (3, ("Y", "e", "s", END), ",")
    same = parting("Yes", "Yes")
    assert (same.place, same.unsteered, same.steered) == (None, ("Y", "e", "s"), ("Y", "e", "s"))
    assert same.candidates == parting("", "").candidates
    umlaut = parting("ä", "b")
    assert "".join(umlaut.unsteered) == "ä"
    for one in same.candidates:
        assert 0 < one.unsteered < 1


def test_what_was_measured_is_kept(bench, monkeypatch):
    fresh = dataclasses.replace(bench, _states=type(bench._states)(1 << 28))
    explain(bench, tiny.PICTURE, PROMPT, answers=((), ()))  # from now on the pictures have been read
    passes = []
    handle = bench.engine.vlm.model.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        counts = []
        for alpha in (1.0, 1.0, 0.5):
            explain(fresh, tiny.PICTURE, PROMPT, alpha=alpha, answers=((), ()))
            counts.append(len(passes))
            passes.clear()
    finally:
        handle.remove()
    first, again, steered_otherwise = counts
    assert again < steered_otherwise < first
    assert first - again == 8  # two lengths of anchors: as text, beside two images, and steered
    assert steered_otherwise - again == 2
    small = dataclasses.replace(bench, _states=type(bench._states)(1000))
    explain(small, tiny.PICTURE, PROMPT, answers=((), ()))
    assert small._states.nbytes <= 1000


def test_a_stream_may_be_dropped_after_any_step(bench):
    fresh = dataclasses.replace(bench, _states=type(bench._states)(1 << 28))
    for count in (1, 3, 7):
        stream = fresh.explain(tiny.PICTURE, PROMPT, Settings(max_new_tokens=4))
        for _ in range(count):
            assert isinstance(next(stream), Progress)
        stream.close()


def test_an_explanation_is_json(found):
    again = json.loads(json.dumps(dataclasses.asdict(found)))
    assert again["gaps"][0]["anchors"].keys() == {"text only", "image", "blank image", "steered"}
    assert len(again["gaps"]) == len(again["moved"]) == 4


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"alpha": 3}, "alpha is 3"), ({"method": "magic"}, "method is 'magic'"), ({"prompt": ""}, "The prompt is empty")],
)
def test_bad_input(bench, changes, expected):
    with pytest.raises(CmrmError, match=expected):
        explain(bench, **{"image": None, "prompt": PROMPT, **changes})


def test_anchors_are_balanced_and_few(bench):
    found = explain(with_recipe(bench, anchors="anchors"), None, PROMPT, answers=((), ()))
    assert [found.groups.count(name) for name in ("harmful", "harmless")] == [24, 24]
    assert all(len(points) == 48 for gap in found.gaps for points in gap.anchors.values())


def test_anchors_without_groups_are_refused(bench, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("a cat\na dog\n")
    with pytest.raises(CmrmError, match="has no harmful text"):
        explain(with_recipe(bench, anchors=str(path)), None, PROMPT)


SIZES = st.tuples(st.integers(2, 5), st.integers(2, 6), st.integers(0, 2**16))


def clouds(pairs: int, hidden: int, seed: int):
    draw = np.random.default_rng(seed)
    anchors = {
        name: draw.normal(size=(2 * pairs, 1, hidden)) * draw.uniform(0.5, 3, hidden)
        for name in ("text only", "image", "blank image", "steered")
    }
    prompt = {name: draw.normal(size=(1, hidden)) for name in ("text only", "image", "steered")}
    return anchors, prompt, np.arange(2 * pairs) < pairs


@given(SIZES)
@settings(max_examples=40, deadline=None)
def test_the_plane_is_the_principal_one_whatever_the_axes_of_the_states(sizes):
    anchors, prompt, harmful = clouds(*sizes)
    (gap,) = compute_gaps(anchors, prompt, harmful)
    fitted = np.concatenate([gap.anchors["text only"], gap.anchors["image"]])
    both = np.concatenate([anchors["text only"], anchors["image"]])[:, 0]
    variances = np.linalg.eigvalsh(np.cov(both.T))[::-1]
    assert fitted.mean(axis=0) == near([0, 0])
    assert fitted.var(axis=0, ddof=1) == near(variances[:2])
    assert gap.shares == near(variances[:2] / variances.sum())
    for k, towards in enumerate(gap.towards):
        text, image = (np.array(gap.anchors[name])[:, k] for name in ("text only", "image"))
        ahead = {"image": image.mean() - text.mean(), "harmful": text[harmful].mean() - text[~harmful].mean()}
        assert ahead[towards] == max(map(abs, ahead.values()))
    mean = {name: states.mean(axis=0)[0] for name, states in anchors.items()}
    expected = [np.linalg.norm(mean[name] - mean["text only"]) for name in ("image", "steered")]
    assert gap.distances == near(expected)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(sizes[1], sizes[1])))[0]
    moved = [{name: states @ rotation + 5 for name, states in part.items()} for part in (anchors, prompt)]
    (other,) = compute_gaps(*moved, harmful)
    for mine, theirs in ((gap.anchors, other.anchors), (gap.prompt, other.prompt)):
        for name, points in mine.items():
            assert theirs[name] == near(points, 1e-3)


@given(arrays.arrays(np.float64, (4, 1, 3), elements=st.floats(-5, 5)))
@settings(max_examples=40, deadline=None)
def test_the_harmful_mean_is_never_behind_the_harmless_one(texts):
    harmful = np.array([True, True, False, False])
    prompt = dict.fromkeys(("text only", "image", "steered"), texts[0])
    values = project(texts, harmful, prompt)
    apart = np.linalg.norm(texts[harmful].mean(axis=0) - texts[~harmful].mean(axis=0))
    assert values["harmful"][0] - values["harmless"][0] == near(apart)
