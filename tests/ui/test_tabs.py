"""What is behind the tabs: streams that can be stopped, a visitor's own offsets, `/extract` and `/inspect`."""

import inspect
import json
import re
import traceback
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from gradio.route_utils import delete_files_created_by_app
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from hypothesis import given
from hypothesis import strategies as st
from serving import CIRCLE, Served, serving, workbench
from typer.testing import CliRunner

from cmrm import CmrmError, LocalEngine, Offsets, Row, Settings, compare, extract_offsets
from cmrm.charts import sweep_curve, vector_lengths
from cmrm.cli import app
from cmrm.explaining.explanation import END, Candidate, Parting
from cmrm.progress import Progress, Stage, finish
from cmrm.server.zerogpu import MOST_SECONDS, duration
from cmrm.steering.anchors import AnchorSet, read_anchors
from cmrm.steering.extraction import extract
from cmrm.ui import Request, answer, explain_answers, stages
from cmrm.ui.html import write_lines, write_offsets, write_tokens
from cmrm.ui.stages import Countdown, describe
from cmrm.ui.view import View

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")

TEXTS = ["a cat", "two dogs", "bake bread", "pick a lock"]


@pytest.fixture(scope="module")
def served():
    with serving(workbench()) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served):
    client = Client(served.url, verbose=False)
    yield client
    client.close()


@pytest.fixture(autouse=True)
def no_hook_is_left(request):
    if "served" not in request.fixturenames:
        yield
        return
    served = request.getfixturevalue("served")
    before = served.hooks
    yield
    assert served.hooks == before


@pytest.mark.parametrize("estimator", ["mean", "pc1", "sequential"])
def test_a_stream_measures_what_extraction_does_and_counts_each_pass(vlm, estimator):
    passes: list[Progress] = []
    offsets = finish(extract(LocalEngine(vlm), TEXTS, estimator, "white", passes.append))
    expected = extract_offsets(LocalEngine(vlm), TEXTS, estimator=estimator)
    assert np.array_equal(offsets.values, expected.values)
    total = len(passes)
    assert passes == [Progress("measuring", done, total) for done in range(1, total + 1)]


@pytest.mark.parametrize("method", ["dataset", "sample"])
def test_few_generators_stand_between_the_page_and_the_loop(method):
    bench, depths = workbench(), []

    def count(*_: object) -> None:
        frames = [frame.f_code for frame, _ in traceback.walk_stack(None)]
        depths.append(sum(code.co_flags & inspect.CO_GENERATOR > 0 and "/cmrm/" in code.co_filename for code in frames))

    handle = bench.engine.vlm.model.register_forward_pre_hook(count)
    asked = Settings(method=method, estimator="sequential", corruption="black", max_new_tokens=2)
    try:
        for stream in (answer, explain_answers):
            list(stream(bench, Request(str(CIRCLE), "What is this?", asked, None, None)))
    finally:
        handle.remove()
    assert max(depths) <= 6  # five and the loop


def test_a_closed_stream_runs_no_further_pass(vlm):
    seen = []
    handle = vlm.model.register_forward_pre_hook(lambda *_: seen.append(1))
    try:
        stream = extract(LocalEngine(vlm), TEXTS, "sequential", "white", id)
        next(stream)
        before = len(seen)
        stream.close()
        assert len(seen) == before
        finish(extract(LocalEngine(vlm), TEXTS, "sequential", "white", id))
        assert len(seen) > 2 * before
    finally:
        handle.remove()


def test_typed_anchors_may_name_their_group():
    found = read_anchors(
        "harmful: pick a lock\n\n  Question: why?  \nhttp://x\nnot-a-group : y\nsmall-talk:  hello ", "a.txt"
    )
    assert found.texts == ("pick a lock", "Question: why?", "http://x", "not-a-group : y", "hello")
    assert found.groups == ("harmful", "", "", "", "small-talk")


line = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" :"), min_size=1).map(str.strip)


@given(st.lists(st.tuples(line.filter(bool), st.sampled_from(["harmful", "harmless", "small-talk"])), min_size=1))
def test_lines_are_read_as_they_were_written(pairs):
    anchors = AnchorSet("a", tuple(text for text, _ in pairs), tuple(group for _, group in pairs))
    assert read_anchors(anchors.lines, "a.txt") == anchors


def test_an_anchor_of_several_lines_can_t_be_edited_in_a_list():
    with pytest.raises(CmrmError, match=r"'one' has several lines.*\.$"):
        _ = read_anchors(json.dumps({"text": "one\ntwo"}), "a.jsonl").lines


@pytest.mark.parametrize(
    "line", ["[" * 200_000, '{"text": "\\ud800 x"}', '{"text": "x", "group": "\\udfff"}', "{}", "[]", "7"]
)
def test_a_line_that_is_no_anchor_is_named(line):
    with pytest.raises(CmrmError, match=r"mine\.jsonl, line 2"):
        read_anchors(f'{{"text": "a cat"}}\n{line}', "mine.jsonl")


def test_a_visitor_s_offsets_take_the_place_of_dataset_level_ones_alone():
    bench = workbench()
    own = extract_offsets(bench.engine, ["bake bread", "how do I sing?"], estimator="mean")
    asked = Settings(alpha=1.0, max_new_tokens=8)
    *_, mine = bench.compare(None, "What is this?", asked, own)
    *_, plain = bench.compare(None, "What is this?", asked)
    *_, expected = compare(bench.engine.vlm, None, "What is this?", own, (1.0,), max_new_tokens=8)
    assert mine.rows[1].ids == expected.rows[1].ids != plain.rows[1].ids
    assert mine.rows[0].ids == plain.rows[0].ids
    *_, swept = bench.sweep(None, "What is this?", (1.0,), asked, own)
    assert swept.rows[1].ids == mine.rows[1].ids
    for offsets in (own, None):
        *_, sample = bench.compare(None, "What is this?", replace(asked, method="sample"), offsets)
        assert sample.rows[1].ids != mine.rows[1].ids
    found = finish(bench.explain(None, "What is this?", Settings(alpha=1.0, max_new_tokens=2), own))
    usual = finish(bench.explain(None, "What is this?", Settings(alpha=1.0, max_new_tokens=2)))
    lengths = np.linalg.norm(own.values, axis=1) / np.linalg.norm(bench.offsets.values, axis=1)
    assert [a / b for a, b in zip(found.added, usual.added, strict=True)] == pytest.approx(lengths.tolist(), rel=1e-4)


def test_a_file_is_opened_unless_it_would_remove_safety_or_is_of_another_model(tmp_path, offsets):
    bench = workbench()
    bench.offsets.save(tmp_path / "same.safetensors")
    assert np.array_equal(bench.open_offsets(tmp_path / "same.safetensors").values, bench.offsets.values)
    Offsets(-bench.offsets.values, fits=bench.offsets.fits).save(tmp_path / "against.safetensors")
    with pytest.raises(CmrmError, match=r"cosine -1\.00.*would remove safety"):
        bench.open_offsets(tmp_path / "against.safetensors")
    sly = bench.offsets.values * np.float32([-1.0, *[1000.0] * (len(bench.offsets.values) - 1)])[:, None]
    Offsets(sly, fits=bench.offsets.fits).save(tmp_path / "sly.safetensors")
    with pytest.raises(CmrmError, match=r"against the model's own at layer 0 \(cosine -1\.00\), so"):
        bench.open_offsets(tmp_path / "sly.safetensors")
    fits = type(offsets.fits)(**{**vars(offsets.fits), "hidden": 128})
    Offsets(np.tile(offsets.values, 2), fits=fits).save(tmp_path / "wide.safetensors")
    with pytest.raises(CmrmError, match="hidden size 128"):
        bench.open_offsets(tmp_path / "wide.safetensors")


def test_vectors_of_any_length_end_in_an_answer():
    bench = workbench()
    huge = Offsets(bench.offsets.values * np.float32(1e30), fits=bench.offsets.fits)
    *_, step = bench.sweep(None, "What is this?", (1.0, 2.0), Settings(max_new_tokens=4), huge)
    assert step.done


def test_extract_streams_passes_and_gives_a_file_that_inspect_reads(client, served):
    job = client.submit(TEXTS, "sequential", "black", api_name="/extract")
    *updates, (path, header) = job
    assert updates
    assert all(file is None and said["progress"].startswith("Pass ") for file, said in updates)
    expected = extract_offsets(LocalEngine(served.vlm), TEXTS, estimator="sequential", corruption="black")
    assert np.array_equal(Offsets.load(path).values, expected.values)
    assert header["origin"]["anchors"] == 4
    assert header["origin"]["corruption"] == "black"
    assert client.predict(handle_file(path), api_name="/inspect") == header
    told = CliRunner().invoke(app, ["inspect", path, "--json"]).stdout
    assert json.loads(told) == header


def test_extract_takes_the_recipe_s_choices_where_none_are_given(client, served):
    _, header = client.predict(TEXTS, api_name="/extract")
    assert (header["origin"]["estimator"], header["origin"]["corruption"]) == ("sequential", "white")


@pytest.mark.parametrize(
    ("anchors", "more", "expected"),
    [
        ([], (), "anchor set is empty"),
        ("text", (), "no list of texts"),
        (["a"] * 513, (), "513 anchors"),
        (["a", " "], (), r"Anchor 2 can't be read: The prompt is empty"),
        (["a", 3], (), "Anchor 2"),
        (["a", "x" * 20_001], (), "20,001 characters"),
        (["x" * 600], (), "more than the model's context"),
        (["a", "b"], ("magic",), "estimator is 'magic'"),
        (["a", "b"], ("mean", "pink"), "corruption is 'pink'"),
        (["a"], ("pc1",), "at least two texts"),
    ],
)
def test_what_can_t_be_measured_is_told_in_one_sentence(client, anchors, more, expected):
    with pytest.raises(AppError, match=expected) as caught:
        client.predict(anchors, *more, api_name="/extract")
    assert "\n" not in str(caught.value)


def test_a_cancelled_measurement_frees_the_model(client, served):
    before = served.passes
    job = client.submit([f"text of length {'x' * k}" for k in range(60)], api_name="/extract")
    next(iter(job))
    job.cancel()
    assert served.idle()
    assert 0 < served.passes - before < 150
    assert client.predict(["a"], api_name="/extract")[1]["format"] == 2


def test_inspect_names_a_bad_file_as_its_owner_does(client):
    with pytest.raises(AppError, match=r"^'circle\.png' is no whole CMRM offsets file"):
        client.predict(handle_file(str(CIRCLE)), api_name="/inspect")
    with pytest.raises(AppError, match="handle_file"):
        client.predict(str(CIRCLE), api_name="/inspect")


def test_made_files_have_names_of_their_own_and_are_deleted_in_time():
    with serving(workbench(), pace=0) as served:
        client = Client(served.url, verbose=False)
        for _ in range(2):
            client.predict(["a", "b"], "mean", api_name="/extract")
        client.close()
        made = [Path(path) for path in served.blocks.upload_file_set if path.endswith("offsets.safetensors")]
        assert len({path.parent.name for path in made}) == 2
        assert all(len(path.parent.name) == 40 for path in made)
        delete_files_created_by_app(served.blocks, 3600)
        assert all(path.exists() for path in made)
        delete_files_created_by_app(served.blocks, None)
        assert not any(path.exists() for path in made)


def test_progress_says_what_is_left(monkeypatch):
    clock, countdown = iter([100.0, 103.88]), Countdown()  # 0.97 s a pass
    monkeypatch.setattr(stages, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert countdown.describe(Progress("measuring", 1, 20)) == "Pass 1 of 20 ..."
    assert countdown.describe(Progress("measuring", 5, 20)) == "Pass 5 of 20, about 15 s left ..."


def test_each_stage_has_a_sentence():
    for stage in get_args(Stage):
        sentence = describe(Progress(stage, 3, 7))
        assert sentence.endswith(" ...")
        assert ("3 of 7" in sentence) == (stage == "measuring" or stage.startswith("anchors"))
    assert describe(Progress("anchors: blank image", 3, 7)) == "Reading anchor texts, blank image: 3 of 7 ..."


def test_a_measurement_asks_for_gpu_time_by_its_anchors():
    assert duration("extract", Settings(), 10) < duration("extract", Settings(), 100) <= MOST_SECONDS
    assert duration("extract", Settings(), 512) == MOST_SECONDS


def row(alpha: float, verdict: str | None, text: str = "text", fluency: float | None = -0.5) -> Row:
    return Row(alpha, text, 3, 1.0, verdict is not None, verdict, fluency)


def veils(view: View) -> list[str]:
    return [re.split('[ "]', part)[0] for part in write_lines(view, 1.0).split("line veil-")[1:]]


@pytest.mark.parametrize(
    ("verdicts", "phase", "expected"),
    [
        ((None, None, None, None), "answering", ["closed", "closed", "open", "open"]),
        (("complied", None, None, None), "answering", ["closed", "closed", "open", "open"]),
        (("complied", "complied", "refused", "refused"), "done", ["click", "click", "open", "open"]),
        (("complied", "refused", "refused", "broken"), "done", ["click", "open", "open", "open"]),
        (("broken", "broken", "complied", "refused"), "done", ["click", "click", "open", "open"]),
        (("complied", "complied", "complied", "complied"), "done", ["open", "open", "open", "open"]),
        (("refused", "refused", "refused", "refused"), "done", ["open", "open", "open", "open"]),
        (("complied", None, None, None), "stopped", ["click", "click", "open", "open"]),
    ],
)
def test_answers_weaker_than_the_method_s_own_are_veiled_as_unsteered(verdicts, phase, expected):
    given = zip((0.0, 0.5, 1.0, 2.0), verdicts, strict=True)
    rows = tuple(row(alpha, verdict, f"text at {alpha}") for alpha, verdict in given)
    asked = Request(None, "hello", Settings(max_new_tokens=8), alphas=(0.5,))
    assert veils(View(True, phase=phase, rows=rows, request=asked)) == expected
    assert set(veils(View(False, phase=phase, rows=rows, request=asked))) == {"open"}


def test_neighbours_of_a_sweep_that_are_the_same_share_a_line_and_the_first_refusal_is_marked():
    rows = [row(2.0, "refused", "no"), row(0.0, "complied"), row(0.5, "refused", "no"), row(1.0, "refused", "no")]
    asked = Request(None, "hello", Settings(max_new_tokens=8), alphas=(0.5,))
    done = View(False, phase="done", rows=tuple(rows), request=asked)
    lines = write_lines(done, 1.0).split("<footer>")[1:]
    assert [re.sub("<[^>]*>", "|", line).split("|")[1] for line in lines] == ["alpha 0", "alpha 0.5 to 2"]
    assert "the same, 3 tokens" in lines[1]
    assert "veil-open switch" in lines[0]  # it opens the line after
    # What is hidden shares no line with what is not, and nothing moves while it runs.
    assert len(veils(replace(done, veiled=True))) == 3
    assert len(veils(replace(done, phase="answering"))) == 4
    assert "switch" not in write_lines(replace(done, rows=(rows[0], rows[2])), 1.0)


def test_a_run_that_can_t_begin_leaves_what_was_shown():
    asked = Request(None, "hello", Settings(max_new_tokens=8))
    done = View(False, phase="done", rows=(row(0.0, "complied"), row(1.0, "refused")), request=asked)
    waiting = View(False, phase="waiting", before=done.keep())
    failed = waiting.fail("No.")
    assert failed == replace(done, error="No.")
    # Again, and it doesn't grow with each.
    assert View(False, phase="waiting", before=failed.keep()).fail("No again.") == replace(done, error="No again.")
    begun = replace(waiting, phase="answering", rows=done.rows)
    assert (begun.fail("No.").phase, begun.fail("No.").rows) == ("stopped", done.rows)
    assert View(False, phase="waiting", before=View(False).keep()).fail("No.").phase == "idle"


def test_texts_of_a_model_and_of_a_file_are_escaped(offsets):
    hostile = "<img src=x onerror=alert(1)>"
    shown = View(False, phase="answering", rows=(row(0.0, None, hostile), row(1.0, None, hostile)))
    origin = type(offsets.origin)(hostile, hostile, 3, hostile, hostile, {hostile: hostile})
    fits = type(offsets.fits)(**{**vars(offsets.fits), "model": hostile})
    html = write_offsets(Offsets(offsets.values, fits=fits, origin=origin), [hostile])
    for part in (write_lines(shown, 1.0), write_lines(View(False, phase="reading", note=hostile), 1.0), html):
        assert "<img" not in part


def test_a_sweep_s_curve_says_each_verdict_and_fluency():
    found = sweep_curve(
        [row(0.0, "complied"), row(2.0, "broken", fluency=-3.25), row(1.0, "refused"), row(0.5, "refused", "", None)]
    )
    assert found.alt.endswith("by alpha: complied (-0.50) at 0, refused (-0.50) at 1, broken (-3.25) at 2.")
    line, *marks = found.figure.data
    assert list(line.x) == [0, 1, 2]
    assert {trace.name: (list(trace.x), list(trace.y)) for trace in marks} == {
        "refused": ([1], [-0.5]),
        "complied": ([0], [-0.5]),
        "broken": ([2], [-3.25]),
    }
    assert len({trace.marker.symbol for trace in marks}) == 3
    assert [(band.x0, band.x1) for band in found.figure.layout.shapes] == [(0.5, 1.5)]
    assert sweep_curve([row(0.0, "broken", "", None)]).alt.endswith("no answer has a token.")


@given(st.lists(st.tuples(st.sampled_from(["refused", "complied"]), st.floats(-9, 0)), min_size=1, max_size=9))
def test_a_sweep_s_bands_hold_what_refuses_alone_and_no_axis_is_a_magnifying_glass(answers):
    figure = sweep_curve([row(k / 4, verdict, "", fluency) for k, (verdict, fluency) in enumerate(answers)]).figure
    bands = [(band.x0, band.x1) for band in figure.layout.shapes]
    for k, (verdict, fluency) in enumerate(answers):
        assert any(start <= k / 4 <= end for start, end in bands) == (verdict == "refused")
        low, high = figure.layout.yaxis.range
        assert low < fluency < high
        assert high - low >= 1


def test_lengths_of_vectors_in_words():
    found = vector_lengths([1.0, 4.5, 2.0])
    assert list(found.figure.data[0].y) == [1.0, 4.5, 2.0]
    assert "last layer, 2, 2; the longest is that of layer 1, 4.5." in found.alt


def parting(**changes) -> Parting:
    values = {
        "place": 3,
        "start": 2,
        "unsteered": (" the", " <b>", " x"),
        "steered": (" the", END),
        "candidates": (Candidate(" <b>", 0.75, 0.125), Candidate(END, 0.05, 0.825)),
    }
    return Parting(**{**values, **changes})


def test_tokens_are_escaped_and_the_parting_is_marked():
    html = write_tokens(parting())
    assert "<b>" not in html
    assert html.count("<mark>") == 2
    assert "<mark> &lt;b&gt;</mark>" in html
    assert f"<mark>{END}</mark>" in html
    assert "part at token 4" in html
    for share in ("75.0%", "12.5%", "82.5%"):
        assert share in html
    assert "Show it anyway" not in html
    assert "Show it anyway" in write_tokens(parting(), "click")
    same = write_tokens(parting(place=None, unsteered=(" the",), steered=(" the",)))
    assert "<mark>" not in same
    assert "are the same" in same
