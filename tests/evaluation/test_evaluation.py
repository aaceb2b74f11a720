"""Figures of the report, on answers made by hand; and what a journal keeps."""

import errno
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmrm import CmrmError
from cmrm.data.records import Record
from cmrm.evaluation.html_report import render_report
from cmrm.evaluation.journal import Entry, Journal, dump, parse
from cmrm.evaluation.paper import paper_table
from cmrm.evaluation.report import Report
from cmrm.judging.judges import measure_agreement
from cmrm.judging.statistics import Rate

JUDGE = "refusal phrases"


def entry(record, label, condition, verdict, right=None, **values):
    return Entry(condition, record, label, values.pop("text", "words"), {JUDGE: verdict}, right, **values)


ENTRIES = (
    entry("a", "harmful", "unsteered", "complied", seconds=1.0, fluency=-1.0),
    entry("b", "harmful", "unsteered", "refused", seconds=3.0, fluency=-2.0),
    entry("c", "question", "unsteered", "complied", True, seconds=1.0),
    entry("d", "question", "unsteered", "complied", False, seconds=1.0),
    entry("a", "harmful", "dataset-level", "refused", seconds=3.0, fluency=-3.0),
    entry("b", "harmful", "dataset-level", "refused", seconds=3.0),
    entry("c", "question", "dataset-level", "complied", False, seconds=3.0),
    entry("d", "question", "dataset-level", "complied", False, seconds=3.0),
    entry("a", "harmful", "random direction #0", "refused"),
    entry("b", "harmful", "random direction #0", "refused"),
    entry("a", "harmful", "random direction #1", "broken"),
    Entry("random direction #1", "b", "harmful", error="The image is damaged."),
)
SETTINGS = {"split": "dev", "model": {"model": "tiny"}, "data": "some.jsonl", "conditions": {}}


@pytest.fixture
def report() -> Report:
    return Report(SETTINGS, ENTRIES, JUDGE)


def test_the_report_counts_by_row_and_pools_seeds(report):
    assert report.rows == ["unsteered", "dataset-level", "random direction"]
    assert report.figures["unsteered"]["harmful refused"].rate == Rate(1, 2)
    assert report.figures["unsteered"]["questions right"].rate == Rate(1, 2)
    pooled = report.figures["random direction"]["harmful refused"]
    assert pooled.rate == Rate(2, 3)
    assert pooled.seeds == (100.0, 0.0)
    assert report.figures["random direction"]["harmful broken"].rate == Rate(1, 3)
    assert "harmless refused" not in report.figures["unsteered"]


def test_rows_are_paired_with_the_unsteered_answers_to_the_same_records(report):
    paired = report.figures["dataset-level"]["harmful refused"].paired
    assert (paired.n, paired.b, paired.c, paired.difference) == (2, 0, 1, 50.0)
    assert report.figures["dataset-level"]["questions right"].paired.difference == -50
    assert report.figures["unsteered"]["harmful refused"].paired is None
    assert report.time_ratio("dataset-level") == pytest.approx(12 / 6)
    assert report.mean("unsteered", "fluency") == -1.5


def test_the_tables_name_judge_split_counts_and_what_is_missing(report):
    table = report.table()
    assert table.count("\n| random direction |") == 1
    assert (
        "n: 2 harmful, 2 question a row and seed; split: dev, settings not tuned for this model; judge: refusal phrases"
        in table
    )
    assert "1 answers are missing" in table
    assert "harmless" not in table
    assert "+50.0 (" in report.paired_table()


def test_means_of_rows_are_over_the_same_kinds_of_record(report):
    lone = entry("a", "harmful", "text only", "refused", fluency=-3.0)
    asked = replace(entry("c", "question", "unsteered", "complied", True), fluency=-9.0)
    means = replace(report, entries=[*ENTRIES, lone, asked]).means
    assert means["unsteered"]["log-probability"] == -1.5  # less the question
    assert means["text only"]["log-probability"] == -3.0


def test_verdicts_on_harmless_requests_are_no_agreement_and_json_has_no_nan():
    verdicts = [("harmful", "refused", "refused"), ("harmless", "complied", "complied")]
    entries = [entry(str(k), label, "unsteered", a) for k, (label, a, _) in enumerate(verdicts)]
    both = [replace(e, verdicts={**e.verdicts, "guard": b}) for e, (*_, b) in zip(entries, verdicts, strict=True)]
    report = Report(SETTINGS, both, "guard")
    assert report.agreements[JUDGE].n == 1
    assert json.loads(json.dumps(report.json(), allow_nan=False))["agreement"][JUDGE]["kappa"] is None


def test_judges_are_held_against_each_other():
    verdicts = [("refused", "refused"), ("complied", "refused"), ("complied", "complied")]
    entries = [replace(ENTRIES[0], record=str(k), verdicts={JUDGE: a, "guard": b}) for k, (a, b) in enumerate(verdicts)]
    both = Report(SETTINGS, entries, "guard")
    assert both.figures["unsteered"]["harmful refused"].rate == Rate(2, 3)
    assert both.agreements == {JUDGE: measure_agreement([b for _, b in verdicts], [a for a, _ in verdicts])}
    assert "kappa" in both.table()


def test_the_papers_table_leaves_unmeasured_cells_empty(report):
    lines = paper_table(report).splitlines()
    assert lines[2] == "| original image, unsafe rate | 61.53 | 50.0% (9.5 to 90.5) |"
    assert "| query only, unsafe rate | 1.91 |  |" in lines
    assert "| LLaVA-Bench-COCO score, unsteered | 79.20 | |" in lines


def test_the_page_needs_nothing_else_and_no_text_in_it_can_run(report):
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    entries = [replace(e, text=evil) for e in ENTRIES]
    records = [Record("a", evil, None, "harmful"), Record("c", "What is it?", None, "question")]
    html = render_report(replace(report, entries=entries, settings={**SETTINGS, "command": evil}), records)
    assert evil not in html
    assert "<img" not in html
    assert html.count("&lt;script&gt;alert(1)") >= 5  # prompt, both answers, settings
    assert "refusal restored" in html
    assert "right answer lost" in html
    assert 'src="http' not in html
    assert "href=" not in html


settings = {"model": "tiny", "conditions": {"unsteered": {"layers": None}}}


@pytest.mark.parametrize("model", ["pocket", "tiny"])
def test_the_page_of_the_pocket_model_says_that_it_is_no_evidence(report, model):
    html = render_report(replace(report, settings={**SETTINGS, "model": {"model": model}}), [])
    assert ("no evidence about real models" in html) == (model == "pocket")


def test_a_run_goes_on_where_it_stopped_and_counts_nothing_twice(tmp_path):
    first = Journal(tmp_path, settings)
    first.add(ENTRIES[:2])
    first.add([replace(ENTRIES[0], text="again")])
    second = Journal(tmp_path, settings)
    assert [e.text for e in second.entries.values()] == ["again", "words"]
    assert second.finish([e.key for e in ENTRIES]) == list(second.entries.values())
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_half_written_last_line_is_dropped(tmp_path, cut):
    Journal(tmp_path, settings).add(ENTRIES[:3])
    path = tmp_path / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    again = Journal(tmp_path, settings)
    assert list(again.entries.values()) == list(ENTRIES[:2])
    again.add(ENTRIES[2:4])
    assert list(Journal(tmp_path, settings).entries.values()) == list(ENTRIES[:4])


def test_a_damaged_line_is_named(tmp_path):
    Journal(tmp_path, settings).add(ENTRIES[:2])
    path = tmp_path / "rows.jsonl"
    path.write_text('{"no": "entry"}\n' + path.read_text())
    with pytest.raises(CmrmError, match=r"rows\.jsonl, line 1 is no answer"):
        Journal(tmp_path, settings)


def test_another_runs_folder_is_refused_and_says_what_differs(tmp_path):
    Journal(tmp_path, settings).add(ENTRIES[:1])
    with pytest.raises(CmrmError, match="a run with another model, which"):
        Journal(tmp_path, {**settings, "model": "other"})
    assert len(Journal(tmp_path, settings).entries) == 1


@pytest.mark.parametrize("name", ["run.json", "cost.json"])
@pytest.mark.parametrize("content", ["[]", "{", "\x00"])
def test_a_damaged_note_of_the_run_is_said(tmp_path, name, content):
    journal = Journal(tmp_path, settings)
    (tmp_path / name).write_text(content)
    with pytest.raises(CmrmError, match=rf"{name} is damaged"):
        (Journal(tmp_path, settings) if name == "run.json" else journal).spend(0.0, 0)


def test_hours_are_those_of_all_sittings_that_kept_something(tmp_path):
    first = Journal(tmp_path, settings)
    first.add(ENTRIES[:1])
    assert first.spend(2.0, 7) == {"hours": 2.0, "gpu_memory": 7}
    assert Journal(tmp_path, settings).spend(0.5, 9) == {"hours": 2.0, "gpu_memory": 7}  # nothing was left to do
    third = Journal(tmp_path, settings)
    third.add(ENTRIES[1:2])
    assert third.spend(1.0, 5) == {"hours": 3.0, "gpu_memory": 7}


def test_a_full_disk_is_said_and_what_was_kept_stays(tmp_path, monkeypatch):
    journal = Journal(tmp_path, settings)
    journal.add(ENTRIES[:2])

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cmrm.evaluation.journal.os.fsync", full)
    with pytest.raises(CmrmError, match=r"can't be written \(No space left on device\).*run the same command again"):
        journal.add(ENTRIES[2:3])
    assert len(journal.entries) == 2
    monkeypatch.undo()
    assert list(Journal(tmp_path, settings).entries.values())[:2] == list(ENTRIES[:2])


def test_processes_keep_files_of_their_own_that_become_one(tmp_path):
    journals = [Journal(tmp_path, settings, process) for process in (0, 1)]
    journals[0].add(ENTRIES[:2])
    journals[1].add(ENTRIES[2:4])
    # The next run has one process, and finds the work of both.
    alone = Journal(tmp_path, settings)
    order = [e.key for e in ENTRIES[:4]]
    assert alone.finish(order) == list(ENTRIES[:4])
    assert [path.name for path in tmp_path.glob("rows*")] == ["rows.jsonl"]
    assert json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[3])["record"] == "d"


@given(st.lists(st.tuples(st.text(), st.text(), st.floats(allow_nan=False)), max_size=5))
def test_entries_survive_their_way_between_processes(values):
    entries = [Entry("c", name, "harmful", text, fluency=number) for name, text, number in values]
    assert parse(dump(entries)) == entries
