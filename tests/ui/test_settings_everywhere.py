"""Each setting arrives whole, whichever door it comes in by; a new one needs no line in any of them but its control."""

import json
import logging
from dataclasses import dataclass, field, fields, replace
from itertools import chain

import gradio as gr
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from serving import CIRCLE, workbench
from typer.testing import CliRunner

from cmrm import CmrmError, Row, Settings, Step, cli
from cmrm.evaluation import Plan
from cmrm.evaluation.conditions import make_conditions
from cmrm.saved_run import Run, write_run
from cmrm.server.zerogpu import ZeroGpuWorkbench
from cmrm.settings import EXPLAINED, MEASURED, SWEPT, format_layers, parse_layers
from cmrm.ui import Request, answer, build, parse_request
from cmrm.ui.compare import add_compare_tab
from cmrm.ui.own_offsets import Own
from cmrm.ui.view import View
from cmrm.workbench import Workbench

NAMES = [one.name for one in fields(Settings)]
OTHER = Settings(
    alpha=0.5,
    method="sample",
    max_new_tokens=7,
    temperature=0.75,
    seed=5,
    top_p=0.9,
    estimator="sequential",
    corruption="black",
    layers=(0, 1, 3),
    positions="all",
    steps="all",
    third="text",
)
AS_TEXT = {**OTHER.json(), "layers": format_layers(OTHER.layers)}


@dataclass(frozen=True)
class Noting(Workbench):
    """A workbench that answers nothing, and notes by what settings it should."""

    seen: list[Settings] = field(default_factory=list)

    def compare(self, image, prompt, settings=None, offsets=None):
        self.seen.append(settings)
        yield Step((Row(0.0), Row(1.0), Row(0.0)), done=True)


@pytest.fixture(scope="module")
def bench() -> Noting:
    return Noting(**vars(workbench()))


def in_order(names):
    return [name for name in NAMES if name in names]


@pytest.fixture(autouse=True)
def forget(bench):
    bench.seen.clear()


def test_no_setting_here_is_the_default():
    assert all(getattr(OTHER, name) != getattr(Settings(), name) for name in NAMES)


def test_the_command_line_takes_each(bench, monkeypatch):
    monkeypatch.setattr(cli, "open_workbench", lambda *_: bench)
    options = chain(*((f"--{name.replace('_', '-')}", str(value)) for name, value in AS_TEXT.items()))
    done = CliRunner().invoke(cli.app, ["compare", "--prompt", "hello", *options])
    assert (done.exit_code, bench.seen) == (0, [OTHER])
    CliRunner().invoke(cli.app, ["compare", "--prompt", "hello"])
    assert bench.seen[1] == Settings()


def test_the_api_takes_each_in_their_order(bench):
    blocks = build(bench)
    compare = next(one for one in blocks.fns.values() if one.api_name == "compare")
    list(compare.fn(None, "hello", *AS_TEXT.values()))
    assert bench.seen == [OTHER]
    parameters = blocks.get_api_info()["named_endpoints"]["/compare"]["parameters"]
    assert [one["parameter_name"] for one in parameters] == ["image", "prompt", *NAMES]


def test_what_takes_a_few_takes_the_same_few_by_command_and_api(bench):
    named = build(bench).get_api_info()["named_endpoints"]
    taken = {name: [one["parameter_name"] for one in named[name]["parameters"]] for name in named}
    assert taken["/sweep"] == ["image", "prompt", "alphas", *in_order(SWEPT)]
    assert taken["/explain"] == ["image", "prompt", *in_order(EXPLAINED)]
    assert taken["/extract"] == ["anchors", *in_order(MEASURED)]
    commands = typer.main.get_command(cli.app).commands
    for command, few in (("sweep", SWEPT), ("extract", MEASURED)):
        assert {one.name for one in commands[command].params} & {*NAMES} == {*few}


def test_the_page_has_a_control_for_each(bench):
    with gr.Blocks() as blocks:
        parts = add_compare_tab(bench, blocks, Own(bench, blocks))
    assert sorted(parts.controls) == sorted(NAMES)
    stream = next(one for one in blocks.fns.values() if one.name == "stream")
    view = View(False, third=OTHER.third)
    list(stream.fn(view, None, None, "hello", *(AS_TEXT[name] for name in parts.controls)))
    assert bench.seen == [OTHER]


def test_a_saved_run_and_its_repetition_have_each(bench, tmp_path):
    file = tmp_path / "run.json"
    file.write_text(json.dumps(write_run(bench, CIRCLE, "hello", OTHER, [Row(0.0), Row(0.5), Row(0.0)])))
    assert Run.read(file).settings == OTHER
    for name in NAMES:
        content = json.loads(file.read_text())
        del content["settings"][name]
        (tmp_path / "less.json").write_text(json.dumps(content))
        with pytest.raises(CmrmError, match="is no run"):
            Run.read(tmp_path / "less.json")


def test_a_worker_of_zerogpu_gets_them_whole(bench):
    sent = []
    parts = (bench.engine, bench.offsets, bench.anchors, bench.recipes)
    away = ZeroGpuWorkbench(*parts, task=lambda *arguments: iter(sent.append(arguments) or ()))
    list(away.compare(None, "hello", OTHER))
    list(away.explain(None, "hello", OTHER))
    list(away.sweep(None, "hello", (1.0,), OTHER))
    list(away.extract(["hello"], OTHER))
    assert [arguments[1] for arguments in sent] == [OTHER] * 4


def test_an_evaluation_gives_them_whole_to_the_rows_that_choose_none(bench, tmp_path):
    greedy = replace(OTHER, temperature=0.0)
    plan = Plan(tmp_path, settings=greedy)
    rows = {row.name: row for row in make_conditions(bench, plan.settings, (), ("cmrm",), (1.0,))}
    for method, name in (("dataset", "dataset-level"), ("sample", "sample-level")):
        assert rows[name].settings == replace(greedy, method=method)
        assert {"group": "cmrm", **rows[name].settings.json()} == rows[name].json()
    # Its offsets are not those of the workbench, which were measured in another way.
    assert rows["dataset-level"].defence.vectors.origin.estimator == greedy.estimator != bench.offsets.origin.estimator
    steered = rows["dataset-level"].steer(bench.offsets)
    assert (steered.alpha, steered.layers) == (greedy.alpha, greedy.layers)
    assert (steered.positions, steered.steps) == (greedy.positions, greedy.steps)


def test_the_log_names_each(bench, caplog):
    with caplog.at_level(logging.INFO, "cmrm.requests"):
        list(answer(bench, Request(None, "hello", OTHER)))
        with pytest.raises(CmrmError, match="alpha is 9"):
            parse_request("compare", None, "hello", {**AS_TEXT, "alpha": 9})
    good, bad = (json.loads(record.getMessage()) for record in caplog.records)
    assert {name: good[name] for name in NAMES} == json.loads(json.dumps(OTHER.json()))
    assert set(NAMES) <= set(bad)
    assert (good["outcome"], bad["outcome"], bad["alpha"]) == ("done", "rejected", 9)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--prompt", "hello", "--image", "missing.png"], "no image file 'missing.png'"),
        (["--prompt", " "], "The prompt is empty"),
        (["--prompt", "hello", "--alpha", "3"], "alpha is 3.0"),
        (["--prompt", "hello", "--temperature", "9"], "temperature is 9.0"),
        (["--prompt", "hello", "--layers", "x"], "layers is 'x'"),
    ],
)
def test_what_is_wrong_without_a_model_is_told_before_one_is_loaded(monkeypatch, options, expected):
    monkeypatch.setattr(cli, "open_workbench", lambda *_: pytest.fail("a model was loaded"))
    done = CliRunner().invoke(cli.app, ["compare", *options])
    assert isinstance(done.exception, CmrmError)
    assert expected in str(done.exception)


@given(st.lists(st.integers(0, 40), max_size=12))
def test_layers_are_read_as_they_were_written(layers):
    chosen = tuple(sorted(set(layers))) or None
    assert parse_layers(format_layers(chosen)) == chosen


def test_json_whole_numbers_are_whole_and_what_was_left_open_stays_open():
    given = Settings.parse(max_new_tokens=7.0, seed=5.0, alpha=None, estimator="", layers="0-1, 3")
    assert given == replace(Settings(), max_new_tokens=7, seed=5, layers=(0, 1, 3))
