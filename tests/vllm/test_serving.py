"""What is refused, that nothing steered reaches others, and that the server lives on."""

import math
import time
from typing import Any

import httpx
import numpy as np
import pytest
from client import ask_all, cached, chat, complete, fetch, packed

OFFSETS = np.ones((8, 192), np.float32)


def with_(**changes):
    return {**packed(OFFSETS), **changes}


def bad_values(value: float):
    values = OFFSETS.copy()
    values[3, 7] = value
    return packed(values)


BAD = {
    "NaN": (bad_values(math.nan), "not finite"),
    "infinite": (bad_values(math.inf), "not finite"),
    "another model": (packed(np.ones((32, 4096), np.float32)), "32 layers of width 4096"),
    "another shape": (with_(shape=[8, 191]), "bytes"),
    "no shape": ({"vectors": packed(OFFSETS)["vectors"]}, "shape"),
    "no base64": (with_(vectors="%%%"), "base64"),
    "mode": (with_(mode="push"), "mode is 'push'"),
    "positions": (with_(positions="first"), "positions"),
    "steps": (with_(steps=3), "steps"),
    "alpha above": (with_(alpha=2.5), "alpha is 2.5"),
    "alpha below": (with_(alpha=-0.1), "alpha is -0.1"),
    "alpha NaN": (with_(alpha=math.nan), "alpha is nan"),
    "alpha infinite": (with_(alpha=math.inf), "alpha is inf"),
    "layers": (with_(layers=[8]), "0 to 7"),
    "no layers": (with_(layers=[]), "0 to 7"),
    "levels": (with_(mode="project", levels=[0.0] * 7), "levels"),
    "reach everywhere": (with_(mode="reach", positions="all"), "last"),
    "member": (with_(strength=1), "strength"),
    "alpha alone": ({"alpha": 1.0}, "no vectors"),
    "nothing": ({}, "nothing to do"),
    "capture": ({"capture": "../../etc"}, "name"),
    "too long": (with_(vectors="A" * (9 << 20)), "characters"),
}


def test_bad_requests_are_refused_in_one_sentence_and_the_engine_lives(server):
    for streamed in (True, False):
        answers = ask_all(server, [chat("What is there?", spec=spec, stream=streamed) for spec, _ in BAD.values()])
        for answer, (name, (_, said)) in zip(answers, BAD.items(), strict=True):
            assert answer.status == 400, (name, answer)
            assert said in answer.error, (name, answer.error)
            assert len(answer.error) < 400, (name, answer.error)
    [answer] = ask_all(server, [chat("What is there?", spec=with_(alpha=0.01))])
    assert answer.status == 200
    assert answer.ids


@pytest.mark.parametrize("text", ["{", "[]", "3", '"text"', "null", "[" * 100_000])
def test_what_is_no_json_object_is_refused(server, text):
    body = chat("Hello", stream=False) | {"vllm_xargs": {"cmrm": text}}
    response = httpx.post(f"{server}/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert "JSON" in response.json()["error"]["message"]


@pytest.mark.parametrize("streamed", [True, False])
def test_a_request_that_is_answer_alone_ends_as_an_error(server, streamed):
    [answer] = ask_all(server, [chat("What is there?", spec=with_(behind=400), stream=streamed)])
    assert (answer.status, answer.ids) == (500, ())
    [answer] = ask_all(server, [chat("What is there?")])
    assert answer.status == 200


def test_what_would_be_answered_unsteered_is_refused(server):
    body = chat("Hello", spec=with_(), stream=False)
    beams = httpx.post(f"{server}/v1/chat/completions", json=body | {"use_beam_search": True, "n": 2})
    assert (beams.status_code, "Beam search" in beams.text) == (400, True)
    for path in ("/v1/responses", "/v1/messages", "/inference/v1/generate", "/v1/chat/completions/batch"):
        other = httpx.post(f"{server}{path}", json=body)
        assert (other.status_code, "can't be steered" in other.text) == (400, True), path
        hidden = httpx.post(f"{server}{path}", content=other.request.content.replace(b'"cmrm"', rb'"\u0063mrm"'))
        assert (hidden.status_code, "can't be steered" in hidden.text) == (400, True), path


def test_what_was_asked_of_an_earlier_start_of_the_server_is_not_answered(server):
    instance, body = httpx.get(f"{server}/v1/cmrm").json()["instance"], chat("Hello", max_tokens=1, stream=False)
    for path, asked in (("/v1/chat/completions", body), ("/v1/cmrm/states", {"names": []})):
        for given, status in ((instance, 200), ("another", 409)):
            answer = httpx.post(f"{server}{path}", json=asked, headers={"X-CMRM-Instance": given}, timeout=60)
            assert answer.status_code == status
        assert "started anew" in answer.json()["error"]["message"]


def test_a_request_that_is_too_long_is_refused(server):
    long = httpx.post(f"{server}/v1/chat/completions", content=b" " * (49 << 20), timeout=60)
    assert long.status_code == 413


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"names": "a"}', b'{"names": [1]}'])
def test_bad_questions_for_states_are_refused(server, body):
    response = httpx.post(f"{server}/v1/cmrm/states", content=body)
    assert (response.status_code, "names" in response.text) == (400, True)


def test_unknown_states_are_said_to_be_missing(server):
    response = httpx.post(f"{server}/v1/cmrm/states", json={"names": ["nobody"]})
    assert response.json() == {"shape": [8, 192], "states": {}, "missing": ["nobody"]}


def likelihood(answer):
    return answer["choices"][0]["logprobs"]["token_logprobs"][0]


@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("steps", ["prompt", "all"])
def test_a_longer_prompt_that_goes_on_where_a_steered_answer_went_reads_no_steered_keys(
    server, reference, positions, steps
):
    row = next(row for row in reference.rows if row["group"] == "alphas" and row["image"] is None)
    offsets = reference.arrays["offsets"]
    spec = packed(offsets) | {"alpha": 2.0, "positions": positions, "steps": steps}
    [answer] = ask_all(server, [chat(row["prompt"], return_tokens_as_token_ids=True)])
    # A prompt of its own for each case, so that no other has left keys there.
    salt = {"last prompt": 5, "last all": 6, "all prompt": 7, "all all": 8}[f"{positions} {steps}"]
    prompt = [1, *[100 + salt] * 70, *answer.ids]
    steered = complete(server, prompt, spec, max_tokens=120, ignore_eos=True)
    longer = prompt + steered["choices"][0]["token_ids"][:110]
    hit = complete(server, longer, logprobs=0)
    fresh = complete(server, longer, logprobs=0, cache_salt="fresh")
    # What comes before the first steered token is shared with the steered request, and nothing behind.
    assert cached(hit) == (0 if positions == "all" else 32 * ((len(prompt) - 1) // 32))
    assert cached(fresh) == 0
    assert likelihood(hit) == pytest.approx(likelihood(fresh), abs=1e-4)


def test_a_steered_request_reads_no_unsteered_keys_where_it_steers_everywhere(server):
    prompt = [1, *[200] * 100]
    complete(server, prompt)
    assert cached(complete(server, prompt)) == 96
    assert cached(complete(server, prompt, packed(OFFSETS))) == 96  # the last position alone: its twin's beginning
    assert cached(complete(server, prompt, packed(OFFSETS) | {"positions": "all"})) == 0


def test_a_state_before_a_long_answer_is_recorded_however_often_it_is_asked_for(server):
    prompt, states = [1, *[150] * 40, *[151] * 40], []
    for k in range(2):
        complete(server, prompt, {"capture": f"again-{k}", "behind": 40})
        states.append(fetch(server, [f"again-{k}"])[f"again-{k}"])
    assert cached(complete(server, prompt, {"capture": "again", "behind": 40})) == 32
    np.testing.assert_allclose(states[0], states[1], atol=5e-4 * np.abs(states[0]).max())


def worker(server: str) -> dict[str, Any]:
    return httpx.get(f"{server}/v1/cmrm").json()["workers"][0]


def test_a_closed_connection_frees_what_it_held(server):
    before = worker(server)
    assert not before["running"]
    body = chat("What is there?", spec=with_(alpha=1.0, steps="all"), max_tokens=450, ignore_eos=True)
    with (
        httpx.Client(base_url=server, timeout=60) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        lines = response.iter_lines()
        for _ in range(6):
            next(lines)
        assert worker(server)["running"] == 1
    for _ in range(40):
        # A request that ended is told to the worker with the next pass.
        complete(server, [1, 2, 3])
        if not worker(server)["running"]:
            break
        time.sleep(0.1)
    # It did not come to its own end, behind 450 steered tokens.
    assert worker(server)["running"] == 0
    assert worker(server)["steered"] - before["steered"] < 400


def test_states_that_nobody_fetches_are_dropped_and_a_capture_can_come_with_steering(server):
    spec = with_(alpha=0.5, capture="both", steps="all")
    [answer] = ask_all(server, [chat("What is there?", spec=spec)])
    assert answer.status == 200
    assert fetch(server, ["both"])["both"].shape == (8, 192)
