"""ZeroGPU, as far as it can be known without it: forked and reused workers, pickled steps, stops at a yield."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from serving import workbench

from cmrm import CmrmError, Vlm
from cmrm.answering.comparison import Row, Step
from cmrm.server.zerogpu import LONGEST, beating, duration, on_zero_gpu
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
    alpha, empty, tokens, failed, explained = facts["sentences"]
    assert "alpha is 9" in alpha
    assert "prompt is empty" in empty
    assert explained == empty
    assert "max_new_tokens is 'many'" in tokens
    assert "ZeroGPU could not answer (ZeroDivisionError)" in failed
    assert "boom" not in failed


def test_a_stop_arrives_while_the_prompt_is_still_read(facts):
    """A pass takes 3 s there: the first token 6 s, the whole answer 1200 s."""
    assert facts["first"] < 5
    assert facts["closed"] < 30


def test_gpu_time_is_asked_for_by_tokens_and_rows(facts):
    assert all(0 < seconds <= LONGEST for seconds in facts["durations"])
    short, long = (duration("compare", None, "", max_new_tokens=tokens) for tokens in (10, 500))
    assert short < long < duration("sweep", None, "", (0.5,) * 8, max_new_tokens=500)
    assert duration("compare", None, "", max_new_tokens=10, method="sample") > short
    assert duration("explain", None, "", max_new_tokens=10) > short
    assert short < duration("extracting", ["a cat"] * 512) <= LONGEST
    assert duration("sweep", None, "", (1.0,) * 60, max_new_tokens=2000) == LONGEST
    assert duration("compare", None, "", max_new_tokens="many") <= short


def test_quantized_weights_are_refused_with_what_to_set():
    vlm = Vlm.load("pocket")
    whole = workbench()
    with pytest.raises(CmrmError, match="CMRM_QUANTIZATION=none"):
        on_zero_gpu(Workbench(vlm, whole.offsets, whole.anchors, whole.recipes), lambda *_, **__: None)


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

    stream = beating(steps, "still at it")
    assert next(stream) is next(stream)
    stream.close()
    assert seen == ["passed", "closed"]
