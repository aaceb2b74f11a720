"""ZeroGPU, as far as it can be known without it: forked and reused workers, pickled steps, stops at a yield."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from serving import workbench

from cmrm import CmrmError, LocalEngine, Settings
from cmrm.answering.steps import Row, Step
from cmrm.server.zerogpu import MOST_SECONDS, beat, duration, on_zero_gpu
from cmrm.workbench import Workbench

HERE = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def facts() -> dict:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"}
    command = [sys.executable, str(HERE / "zerogpu_process.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_answers_of_a_worker_are_those_of_the_process_itself(facts):
    assert facts["away"] == facts["alone"]


def test_one_worker_serves_all_and_no_hook_stays_on_its_model(facts):
    assert facts["workers"] == 1
    assert len(facts["hooks"]) > 10
    assert set(facts["hooks"]) == {facts["hooks"][0]}
    assert facts["again"] == facts["alone"]


def test_sentences_survive_the_way_back(facts):
    layers, empty, tokens, failed, explained = facts["sentences"]
    assert "999 is not one of them" in layers
    assert "prompt is empty" in empty
    assert explained == empty
    assert "the model's context" in tokens
    assert "ZeroGPU could not answer (ZeroDivisionError)" in failed
    assert "boom" not in failed


def test_a_stop_arrives_while_the_prompt_is_still_read(facts):
    """A pass takes 3 s there: the first token 6 s, the whole answer 1200 s."""
    assert facts["first"] < 5
    assert facts["closed"] < 30


def test_gpu_time_is_asked_for_by_tokens_and_rows(facts):
    assert all(0 < seconds <= MOST_SECONDS for seconds in facts["durations"])
    few, many = Settings(max_new_tokens=10), Settings(max_new_tokens=500)
    short, long = duration("compare", few, 1), duration("compare", many, 1)
    assert short < long < duration("sweep", many, 8)
    assert duration("compare", replace(few, method="sample"), 1) > short
    assert duration("compare", replace(few, estimator="mean"), 1) > short
    assert duration("explain", few, 1) > short
    assert short < duration("extract", Settings(), 512) <= MOST_SECONDS
    assert duration("sweep", Settings(max_new_tokens=2000), 60) == MOST_SECONDS


def test_quantized_weights_are_refused_with_what_to_set():
    engine, whole = LocalEngine.load("pocket"), workbench()
    with pytest.raises(CmrmError, match="CMRM_QUANTIZATION=none"):
        on_zero_gpu(Workbench(engine, whole.offsets, whole.anchors, whole.recipes), lambda *_, **__: None)


def test_closing_a_beating_stream_during_a_pass_closes_what_is_behind_it():
    seen = []

    def steps():
        try:
            yield Step((Row(0.0), Row(1.0)))
            time.sleep(1.2)
            seen.append("passed")
            yield Step((Row(0.0), Row(1.0)))
            seen.append("went on")
        finally:
            seen.append("closed")

    stream = beat(steps, "still at it")
    assert next(stream) is next(stream)
    stream.close()
    assert seen == ["passed", "closed"]
