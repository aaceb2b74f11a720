"""The same tokens and states as the project's own engine, in float32, with everything asked at once."""

import httpx
import numpy as np
import pytest
from checks import GROUPS, different, near, rows_of, specs, states_of
from client import ask_all, chat, complete, fetch, packed


@pytest.mark.parametrize("group", GROUPS)
def test_the_same_tokens(server, reference, group):
    assert different(server, reference, rows_of(reference, group)) == []


def test_the_same_states_and_gaps(server, reference):
    arrays, where = reference.arrays, [0, 2, 3, 7]
    texts = arrays["states text"]
    reach = [packed(text) | {"mode": "reach"} for text in texts]
    near(states_of(server, reference, "text", [{}] * 20, alone=True), texts)
    near(states_of(server, reference, "plain", [{}] * 20), arrays["states plain"])
    added = packed(arrays["offsets"]) | {"alpha": 1.1, "layers": where}
    near(states_of(server, reference, "added", [added] * 20), arrays["states added"])
    near(states_of(server, reference, "gaps", reach), arrays["states gaps"])
    some = [spec | {"alpha": 0.7, "layers": where} for spec in reach]
    near(states_of(server, reference, "some", some), arrays["states some gaps"])
    none = [spec | {"alpha": 0, "layers": where} for spec in reach]
    near(states_of(server, reference, "none", none), arrays["states no reach"])


def test_sample_level_offsets_can_be_measured_there(server, reference):
    few = [row for row in reference.rows if row["group"] == "alphas" and row["image"] is None]
    prompts = list(dict.fromkeys(row["prompt"] for row in few))[:6]
    texts = reference.arrays["states text"][:6]
    bodies = [
        chat(
            prompt, reference.folder / "blank.png", packed(text) | {"mode": "reach", "capture": f"s-{k}"}, max_tokens=1
        )
        for k, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
    ]
    assert {answer.status for answer in ask_all(server, bodies)} == {200}
    found = fetch(server, [f"s-{k}" for k in range(6)])
    near(np.stack([found[f"s-{k}"] for k in range(6)]), reference.arrays["sample"])


def test_the_same_may_come_next_behind_an_answer_that_has_begun(server, reference):
    rows = [row for row in reference.rows if row["group"] == "next"]
    assert len(rows) == 40
    for number, row in enumerate(rows):
        spec = {**specs(reference, row), "capture": f"next-{number}"}
        answer = complete(server, row["prompt"], spec, logprobs=5, return_tokens_as_token_ids=True)
        [likely] = answer["choices"][0]["logprobs"]["top_logprobs"]
        expected = reference.arrays[row["probabilities"]]
        for token, log_probability in likely.items():
            place = int(token.removeprefix("token_id:"))
            assert np.exp(log_probability) == pytest.approx(expected[place], abs=1e-4)
        near(fetch(server, [f"next-{number}"])[f"next-{number}"], reference.arrays[row["states"]])


def test_the_probabilities_of_all_tokens_can_be_asked_for(server):
    body = chat("What is there?", max_tokens=1, stream=False, logprobs=True, top_logprobs=-1)
    response = httpx.post(f"{server}/v1/chat/completions", json=body, timeout=60)
    [content] = response.json()["choices"][0]["logprobs"]["content"]
    assert sum(np.exp(one["logprob"]) for one in content["top_logprobs"]) == pytest.approx(1, abs=1e-3)
