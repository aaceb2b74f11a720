"""The engine over a server held against the one in this process, in float32: run in the project's environment.

CMRM_SERVER=URL python -m pytest -c tests/vllm/pytest.ini tests/vllm/test_engine.py
"""

import json
import os
import time
from contextlib import closing
from itertools import product

import numpy as np
import pytest

if "CMRM_SERVER" not in os.environ:
    pytest.skip("set CMRM_SERVER to the address of a server with the pocket model", allow_module_level=True)
pytest.importorskip("bitsandbytes", reason="the local engine is not in this environment")

from reference import chosen, engine

from cmrm import Offsets, Settings, extract_each, extract_offsets
from cmrm.engines.vllm import VllmEngine, steer
from cmrm.files import ASSETS
from cmrm.judging.openings import refusal_openings
from cmrm.steering.vectors import Prompt, Steered

PLACES = list(product(("last", "all"), ("prompt", "all")))
WHERE = tuple(range(7))


@pytest.fixture(scope="module")
def local():
    return engine()


@pytest.fixture(scope="module")
def remote():
    return VllmEngine.connect(os.environ["CMRM_SERVER"])


@pytest.fixture(scope="module")
def offsets():
    return Offsets.load(ASSETS / "pocket-offsets.safetensors")


@pytest.fixture(scope="module")
def prompts():
    return [Prompt(record.prompt, record.image) for record in chosen(10)]


def near(found, expected) -> None:
    np.testing.assert_allclose(found, expected, atol=5e-4 * np.abs(expected).max())


def test_the_model_is_the_same(local, remote):
    mine, theirs = local.identity, remote.identity
    assert (theirs.architecture, theirs.hidden, theirs.layers) == (mine.architecture, mine.hidden, mine.layers)
    assert (theirs.model, theirs.dtype, theirs.quantization) == ("pocket", "float32", "none")
    assert (remote.context_length, remote.end_tokens) == (local.context_length, local.end_tokens)
    assert remote.at_once > 1


@pytest.mark.parametrize(("positions", "steps"), PLACES)
def test_rows_are_the_same_token_by_token(local, remote, offsets, prompts, positions, steps):
    settings = Settings(max_new_tokens=40, layers=WHERE, positions=positions, steps=steps)
    steered = Steered.by(settings, offsets, 0.0, 0.5, 1.1)
    for prompt in prompts:
        mine, theirs = (list(one.prepare(prompt, settings, 3).answer(steered)) for one in (local, remote))
        assert [row.ids for row in theirs[-1].rows] == [row.ids for row in mine[-1].rows]
        assert [(row.text, row.verdict) for row in theirs[-1].rows] == [
            (row.text, row.verdict) for row in mine[-1].rows
        ]
        assert len(theirs) > 5, "it streams"


def test_batches_openings_and_fluency_are_the_same(local, remote, offsets, prompts):
    openings, steered = refusal_openings(local.tokenizer), Steered(offsets, 1.1, WHERE)
    mine, theirs = (one.answer_batch(prompts, steered, max_new_tokens=40, openings=openings) for one in (local, remote))
    assert [(row.ids, row.text) for row in theirs] == [(row.ids, row.text) for row in mine]
    assert [row.opening for row in theirs] == pytest.approx([row.opening for row in mine], abs=1e-3)
    answers = [row.ids for row in mine[:-1]] + [()]
    for asked in (prompts, [Prompt(prompt.text) for prompt in prompts]):
        expected = local.log_probabilities(asked, answers)
        assert remote.log_probabilities(asked, answers) == [
            None if score is None else pytest.approx(score, abs=1e-3) for score in expected
        ]


@pytest.mark.parametrize("estimator", ["mean", "pc1", "sequential"])
def test_offsets_are_the_same(local, remote, prompts, estimator):
    texts = [prompt.text for prompt in prompts[:6]]
    mine, theirs = (extract_offsets(one, texts, estimator=estimator) for one in (local, remote))
    near(theirs.values, mine.values)
    if estimator != "pc1":
        for found, expected in zip(
            *(extract_each(one, texts, estimator=estimator) for one in (remote, local)), strict=True
        ):
            near(found.values, expected.values)


@pytest.mark.parametrize("steps", ["prompt", "all"])
@pytest.mark.parametrize("begun", [0, 5, 40])
def test_the_same_may_come_next(local, remote, offsets, prompts, steps, begun):
    settings = Settings(layers=WHERE, steps=steps)
    steered = Steered.by(settings, offsets, 0.0, 1.1)
    # 40 tokens hold a block of the prefix cache; no one answer is as long.
    text = " ".join(answer.text for answer in local.answer_batch(prompts[:2], max_new_tokens=40))
    behind = local.tokenizer(text, add_special_tokens=False)["input_ids"][:begun]
    assert len(behind) == begun
    mine, once, again = (
        one.prepare(prompts[0], settings, 2).next_token(steered, behind) for one in (local, remote, remote)
    )
    for found in (once, again):
        np.testing.assert_allclose(found.probabilities, mine.probabilities, atol=1e-4)
        near(found.states, mine.states)


def steered_tokens(remote) -> int:
    return json.loads(remote.server.get("/v1/cmrm"))["workers"][0]["steered"]


def test_nothing_runs_there_once_a_stream_is_closed(remote, offsets, prompts):
    before = steered_tokens(remote)
    steered = Steered(offsets, 1.1, WHERE, "last", "all")
    body = remote.ask(prompts[0], max_tokens=400, ignore_eos=True)
    with closing(remote.server.stream_all([steer(body, steered, row) for row in range(2)])) as stream:
        while not next(stream):
            pass
        assert remote.health().running
    end = time.monotonic() + 20
    while remote.health().running:
        assert time.monotonic() < end
        time.sleep(0.05)
    # They did not come to their own ends, behind 400 steered tokens each.
    assert steered_tokens(remote) - before < 700
