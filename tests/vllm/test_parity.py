"""The same tokens and states as the project's own engine, in float32, with everything asked at once."""

from typing import Any

import numpy as np
import pytest
from client import ask_all, chat, fetch, packed
from conftest import Reference

GROUPS = ("alphas", "add", "reach", "project")


def specs(reference: Reference, row: dict[str, Any]) -> dict[str, Any] | None:
    """What a row asks for, with its arrays in the place of their names."""
    spec = {**row["spec"]}
    if not spec["alpha"]:
        return None
    vectors, levels = spec.pop("vectors"), spec.pop("levels", None)
    spec |= packed(reference.arrays[vectors])
    return spec if levels is None else spec | {"levels": reference.arrays[levels].tolist()}


def different(url: str, reference: Reference, rows: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
    bodies = [
        chat(row["prompt"], row["image"] and reference.folder / row["image"], specs(reference, row)) for row in rows
    ]
    answers = ask_all(url, bodies)
    assert [answer.error for answer in answers if answer.status != 200] == []
    pairs = zip(rows, answers, strict=True)
    return [(row["spec"], answer.ids) for row, answer in pairs if list(answer.ids) != row["ids"]]


@pytest.mark.parametrize("group", GROUPS)
def test_the_same_tokens(server, reference, group):
    rows = [row for row in reference.rows if row["group"] == group]
    assert len(rows) == {"alphas": 160, "add": 80, "reach": 40, "project": 80}[group]
    assert different(server, reference, rows) == []


def states_of(url: str, reference: Reference, name: str, asked: list[dict[str, Any]], *, alone: bool = False) -> Any:
    rows = [row for row in reference.rows if row["group"] == "alphas" and not row["spec"]["alpha"]]
    rows = [row for row in rows if (row["image"] is None) == alone][: len(asked)]
    names = [f"{name}-{k}".replace(" ", "-") for k in range(len(rows))]
    bodies = [
        chat(row["prompt"], row["image"] and reference.folder / row["image"], spec | {"capture": key}, max_tokens=1)
        for row, spec, key in zip(rows, asked, names, strict=True)
    ]
    assert {answer.status for answer in ask_all(url, bodies)} == {200}
    found = fetch(url, names)
    assert fetch(url, names) == {}, "each is handed over once"
    return np.stack([found[key] for key in names])


def near(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, atol=5e-4 * np.abs(expected).max())


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
