"""Choosing how much of each rival, and where, on the dev split: by the score that chose CMRM's own settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..anchors import load_anchors
from ..methods.captions import Captioned
from ..methods.defence import Defence
from ..methods.levels import DatasetLevel
from ..methods.refusal_direction import Restored, refusal_direction
from ..methods.shiftdc import ShiftDC
from ..model import Vlm
from ..offsets import Offsets
from ..recipes import RivalSetting
from ..steering import PerRow
from . import language
from .tune import Bench, PerRecord, Rates, write_recipes

ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
FINALISTS = 8


def tune_rivals(assets: Path, model: str | Path = "pocket", sizes: tuple[int, int] = (80, 300)) -> dict[str, Rates]:
    """Search each rival's alpha and layers and add them to `recipes.json` in `assets`; return their dev rates."""
    vlm = Vlm.load(model)
    quick, final = (Bench.of(vlm, size, size, seed) for seed, size in enumerate(sizes))
    direction = refusal_direction(vlm, load_anchors(assets / "pocket-anchors.jsonl"))
    rivals: dict[str, Defence] = {
        "add": DatasetLevel(direction),
        "restore": Restored(vlm, direction),
        "shiftdc": ShiftDC(Captioned(vlm), direction),
    }
    shelf = json.loads((assets / "recipes.json").read_text(encoding="utf-8"))
    found = {name: _best(rival, quick, final) for name, rival in rivals.items()}
    shelf["pocket"]["rivals"] = {name: asdict(setting) for name, (setting, _) in found.items()}
    write_recipes(assets, shelf)
    return {name: rates for name, (_, rates) in found.items()}


def _best(rival: Defence, quick: Bench, final: Bench) -> tuple[RivalSetting, Rates]:
    """By first tokens, then the best ones by whole answers to other records."""
    tokens = quick.vlm.tokenizer
    openings = {tokens(text, add_special_tokens=False).input_ids[0] for text in language.REFUSALS}
    own = _rows(rival, quick)
    pool = [RivalSetting(alpha, layers) for layers in _layer_sets(len(quick.vlm.layers)) for alpha in ALPHAS]
    pool.sort(key=lambda one: -quick.first_score(own, one.alpha, one.layers, openings))
    steered = _rows(rival, final)
    rated = [(one, final.rates(steered, one.alpha, one.layers)) for one in pool[:FINALISTS]]
    return max(rated, key=lambda pair: pair[1].score)


def _rows(rival: Defence, bench: Bench) -> Offsets | PerRecord:
    """What the rival adds for each record, measured once."""
    added = rival.steering(bench.records)
    if isinstance(added, PerRow):
        return {record.id: row for record, row in zip(bench.records, added.rows, strict=True)}
    assert isinstance(added, Offsets)
    return added


def _layer_sets(count: int) -> Sequence[tuple[int, ...]]:
    """Each layer alone, all from the first to each, and all from each to the last."""
    from_below = [tuple(range(k + 1)) for k in range(1, count)]
    to_the_top = [tuple(range(k, count)) for k in range(1, count - 1)]
    return [*((k,) for k in range(count)), *from_below, *to_the_top]
