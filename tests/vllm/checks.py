"""What a server answers, held against what the project's own engine answered."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from client import ask_all, chat, fetch, packed
from conftest import Reference

GROUPS = {"alphas": 160, "add": 80, "reach": 40, "project": 80}
"""Answers of each kind that `reference.py` notes."""

ASKED: Counter[tuple[str, ...]] = Counter()
"""Answers that were held against the engine's, by mode, positions and steps; in `OTHER` those of other tokens."""
OTHER: Counter[tuple[str, ...]] = Counter()


def rows_of(reference: Reference, *groups: str) -> list[dict[str, Any]]:
    rows = [row for row in reference.rows if row["group"] in groups]
    assert len(rows) == sum(GROUPS[group] for group in groups)
    return rows


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
    others = [(row["spec"], answer.ids) for row, answer in pairs if list(answer.ids) != row["ids"]]
    ASKED.update(kind_of(row["spec"]) for row in rows)
    OTHER.update(kind_of(spec) for spec, _ in others)
    return others


def kind_of(spec: dict[str, Any]) -> tuple[str, ...]:
    return (spec.get("mode", "add"), spec["positions"], spec["steps"]) if spec["alpha"] else ("unsteered", "", "")


def table() -> Iterator[str]:
    if ASKED:
        yield "| mode | positions | steps | answers | with other tokens |\n|---|---|---|---|---|"
    for kind in sorted(ASKED):
        yield f"| {' | '.join(kind)} | {ASKED[kind]} | {OTHER[kind]} |"


def states_of(url: str, reference: Reference, name: str, asked: list[dict[str, Any]], *, alone: bool = False) -> Any:
    rows = [row for row in rows_of(reference, "alphas") if not row["spec"]["alpha"]]
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
