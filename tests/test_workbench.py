"""A model's offsets: computed once, kept, found again, and made anew when the kept file is no good."""

import hashlib
import json
from dataclasses import replace

import pytest
import serving
import tiny

from cmrm import CmrmError, LocalEngine, Offsets, compare, extract_offsets
from cmrm.progress import finish
from cmrm.saved_run import describe_offsets, write_run
from cmrm.settings import ModelChoice, Settings, parse_alphas, parse_layers
from cmrm.steering.anchors import load_anchors
from cmrm.steering.chance import random_direction
from cmrm.steering.recipes import recipes_for
from cmrm.workbench import Workbench


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of its own, and a short anchor set under the name that other models use."""
    assets = tmp_path / "assets"
    assets.mkdir()
    lines = [{"text": "a cat", "group": "harmless"}, {"text": "pick a lock", "group": "harmful"}]
    (assets / "anchors.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr("cmrm.steering.anchors.ASSETS", assets)
    monkeypatch.setenv("CMRM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_offsets_are_computed_once_with_progress_and_kept(checkpoint, cache, monkeypatch):
    told = []
    first = Workbench.open(ModelChoice(checkpoint), report=lambda step: told.append((step.done, step.total)))
    assert told[-1][0] == told[-1][1]
    assert len(list(cache.glob("*.safetensors"))) == 1
    assert first.anchors == "anchors"

    def never(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr("cmrm.steering.shelf.extract_offsets", never)
    second = Workbench.open(ModelChoice(checkpoint))
    assert (second.offsets.values == first.offsets.values).all()
    with pytest.raises(AssertionError):  # another quantization is another model
        Workbench.open(ModelChoice(checkpoint, "none"))


def test_a_damaged_cache_file_is_set_aside_and_made_anew(checkpoint, cache):
    first = Workbench.open(ModelChoice(checkpoint))
    (kept,) = cache.glob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:100])
    again = Workbench.open(ModelChoice(checkpoint))
    assert (again.offsets.values == first.offsets.values).all()
    assert Offsets.load(kept).fits == again.engine.vlm.identity
    assert len(list(cache.glob("*.damaged"))) == 1


def test_a_cache_that_cannot_be_written_does_not_stop_the_app(checkpoint, cache, monkeypatch):
    cache.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="could not be written"):
        assert Workbench.open(ModelChoice(checkpoint)).offsets.values.shape == (4, 64)


def test_a_given_file_is_used_with_its_warnings_and_refused_if_it_does_not_fit(checkpoint, cache, offsets, tmp_path):
    path = tmp_path / "mine.safetensors"
    offsets.save(path)
    bench = Workbench.open(ModelChoice(checkpoint), offsets=path)
    assert bench.anchors == "mine.safetensors"
    assert any("quantization" in note for note in bench.notes)
    wide = tmp_path / "wide.safetensors"
    fits = {**vars(offsets.fits), "hidden": 128}
    Offsets(offsets.values.repeat(2, axis=1), fits=type(offsets.fits)(**fits)).save(wide)
    with pytest.raises(CmrmError, match="hidden size 128"):
        Workbench.open(ModelChoice(checkpoint), offsets=wide)


def test_both_methods_answer_by_their_recipes(checkpoint, cache):
    bench = Workbench.open(ModelChoice(checkpoint))
    for method in ("dataset", "sample"):
        *_, step = bench.compare(None, "What?", Settings(method=method, max_new_tokens=3))
        assert step.rows[1].alpha == bench.recipes[method].alpha
    with pytest.raises(CmrmError, match="method"):
        bench.compare(None, "What?", Settings(method="magic"))


def test_every_model_has_recipes_whose_anchors_ship():
    for model in ("pocket", "llava-hf/llava-1.5-7b-hf"):
        for recipe in recipes_for(model).values():
            assert load_anchors(recipe.anchors).texts


def test_the_general_anchor_set_is_half_harmful_half_harmless():
    anchors = load_anchors("anchors")
    assert len(anchors.texts) == len(set(anchors.texts)) == 128
    assert len(load_anchors("anchors:harmful").texts) == len(load_anchors("anchors:harmless").texts) == 64


@pytest.mark.parametrize(
    ("content", "says"),
    [("", "is empty"), ("{", "line 1"), ('{"text": " "}', "line 1"), ('{"text": "a"}\n[]', "line 2")],
)
def test_bad_anchor_files_name_the_line(tmp_path, content, says):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(CmrmError, match=says):
        load_anchors(path)
    with pytest.raises(CmrmError, match="can't be read"):
        load_anchors(tmp_path / "none.jsonl")
    plain = tmp_path / "plain.txt"
    plain.write_text("one\n\ntwo\n")
    assert load_anchors(plain).texts == ("one", "two")


@pytest.fixture(scope="module")
def tiny_bench():
    return serving.workbench()


def test_a_random_direction_answers_in_the_same_batch_and_changes_no_other_row(tiny_bench):
    *_, two = tiny_bench.compare(tiny.PICTURE, "What?", Settings(max_new_tokens=6))
    *_, three = tiny_bench.compare(tiny.PICTURE, "What?", Settings(max_new_tokens=6, third="random", seed=3))
    assert [row.text for row in three.rows[:2]] == [row.text for row in two.rows]
    assert three.rows[2].alpha == three.rows[1].alpha
    assert three.rows[2].text != three.rows[1].text
    own = random_direction(tiny_bench.offsets, 3)
    *_, alone = compare(tiny_bench.engine.vlm, tiny.PICTURE, "What?", own, (three.rows[1].alpha,), max_new_tokens=6)
    assert alone.rows[1].text == three.rows[2].text


def test_the_text_alone_is_answered_behind_the_others(tiny_bench):
    steps = list(tiny_bench.compare(tiny.PICTURE, "What?", Settings(max_new_tokens=6, third="text")))
    assert {len(step.rows) for step in steps} == {3}
    assert [step.done for step in steps] == [False] * (len(steps) - 1) + [True]
    *_, alone = compare(tiny_bench.engine.vlm, None, "What?", None, (), max_new_tokens=6)
    assert steps[-1].rows[2].text == alone.rows[0].text
    assert all(row.verdict for row in steps[-1].rows)


def test_what_a_request_changes_in_the_recipe_is_what_the_library_does(tiny_bench):
    bench, asked = tiny_bench, {"layers": [1, 3], "steps": "all", "positions": "all", "alpha": 0.7}
    *_, step = bench.compare(tiny.PICTURE, "What?", Settings(max_new_tokens=6, **asked))
    *_, same = compare(
        bench.engine.vlm, tiny.PICTURE, "What?", bench.offsets, (0.7,), layers=[1, 3], steps="all", positions="all",
        max_new_tokens=6,
    )  # fmt: skip
    assert [row.ids for row in step.rows] == [row.ids for row in same.rows]


def test_another_estimator_is_measured_on_the_anchors_once(tiny_bench):
    bench = replace(tiny_bench, _measured=type(tiny_bench._measured)(1 << 20))
    first = list(bench.compare(tiny.PICTURE, "What?", Settings(max_new_tokens=6, estimator="pc1", corruption="noise")))
    assert (first[0].progress.stage, first[0].progress.done) == ("measuring", 1)
    again = list(bench.compare(tiny.PICTURE, "What?", Settings(max_new_tokens=6, estimator="pc1", corruption="noise")))
    assert not any(step.progress for step in again)
    texts = load_anchors(bench.recipes["dataset"].anchors).texts
    made = extract_offsets(LocalEngine(bench.engine.vlm), texts, estimator="pc1", corruption="noise")
    *_, same = compare(bench.engine.vlm, tiny.PICTURE, "What?", made, (1.0,), max_new_tokens=6)
    for steps in (first, again):
        assert [row.ids for row in steps[-1].rows] == [row.ids for row in same.rows]
    with pytest.raises(CmrmError, match="measured by the estimator 'mean'"):
        bench.compare(None, "What?", Settings(estimator="pc1"), bench.offsets)


def test_offsets_that_do_not_say_how_they_were_measured_are_taken_for_the_recipe_s(tiny_bench):
    bench = replace(tiny_bench, offsets=Offsets(tiny_bench.offsets.values, fits=tiny_bench.offsets.fits))
    recipe = bench.recipes["dataset"]
    settled = bench.settle(Settings())
    assert (settled.estimator, settled.corruption) == (recipe.estimator, recipe.corruption)
    assert (settled.alpha, settled.layers) == (recipe.alpha, recipe.layers)
    asked = {"max_new_tokens": 6, "estimator": recipe.estimator, "corruption": recipe.corruption}
    for options in ({}, asked):
        *_, step = bench.compare(tiny.PICTURE, "What?", Settings(**{"max_new_tokens": 6, **options}))
        *_, same = tiny_bench.compare(tiny.PICTURE, "What?", Settings(max_new_tokens=6))
        assert [row.ids for row in step.rows] == [row.ids for row in same.rows]
    found = finish(bench.explain(tiny.PICTURE, "What?", Settings(max_new_tokens=6)))
    usual = finish(tiny_bench.explain(tiny.PICTURE, "What?", Settings(max_new_tokens=6)))
    assert found == usual


def test_a_run_names_the_anchors_that_its_offsets_were_measured_on(tiny_bench):
    def made(offsets=None, **asked):
        settings = bench.settle(Settings(**asked), offsets)
        whole = write_run(bench, None, "What?", Settings(**asked), (), offsets)["offsets"]
        assert describe_offsets(bench, settings, offsets) == {name: whole[name] for name in whole if name != "sha256"}
        return tuple(whole.values())

    bench = replace(tiny_bench, anchors="mine.safetensors")
    digest = hashlib.sha256(bench.offsets.values.tobytes()).hexdigest()
    assert made() == made(estimator="mean") == ("mean", "white", "mine.safetensors", 3, digest)
    texts = load_anchors(bench.recipes["dataset"].anchors)
    assert made(estimator="pc1") == ("pc1", "white", texts.name, len(texts.texts), None)
    assert made(corruption="noise") == ("mean", "noise", texts.name, len(texts.texts), None)
    assert made(bench.offsets) == ("mean", "white", "the visitor's", 3, digest)
    assert made(method="sample", estimator="mean") == ("mean", "white", "the prompt", 1, None)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"estimator": "median"}, "estimator is 'median'"),
        ({"corruption": "rain"}, "corruption is 'rain'"),
        ({"layers": [4]}, "Layers go from 0 to 3"),
        ({"positions": "first"}, "positions is 'first'"),
        ({"steps": "some"}, "steps is 'some'"),
        ({"third": "fourth"}, "third is 'fourth'"),
        ({"alpha": -1}, "alpha is -1"),
        ({"top_p": 0}, "top_p is 0"),
        ({"method": "sample", "estimator": "pc1"}, "needs several texts"),
    ],
)
def test_bad_settings_are_refused_before_the_model_runs(tiny_bench, asked, says):
    with pytest.raises(CmrmError, match=says):
        tiny_bench.compare(None, "What?", Settings(**asked))


@pytest.mark.parametrize(("text", "layers"), [("", None), (" 0-2, 5 ", (0, 1, 2, 5)), ("7", (7,))])
def test_layers_as_text(text, layers):
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["a", "3-1", "-1", "0-", "0-99999999", "1.5"])
def test_layers_that_are_none(text):
    with pytest.raises(CmrmError, match="layers is"):
        parse_layers(text)


@pytest.mark.parametrize("parse", [parse_layers, parse_alphas])
def test_a_list_of_thousands_is_not_read(parse):
    with pytest.raises(CmrmError, match="at most 2,000 are read; shorten it") as error:
        parse("0-999," * 1000)
    assert len(str(error.value)) < 200
