"""What the project's own engine answers in float32, to hold vLLM against: run in the project's environment.

python tests/vllm/reference.py FOLDER
"""

import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText

from cmrm import LocalEngine, Offsets, Settings, Vlm, extract_each
from cmrm.data.records import Record
from cmrm.files import ASSETS, POCKET_FOLDER
from cmrm.model.processor import load_processor
from cmrm.pocket.records import records
from cmrm.steering.extraction import read_states
from cmrm.steering.recipes import recipes_for
from cmrm.steering.vectors import Prompt, Steered, Vectors

ALPHAS = (0.0, 0.5, 1.1, 2.0)
LENGTH = 48
EVERYWHERE = tuple(range(8))


def engine() -> LocalEngine:
    model = AutoModelForImageTextToText.from_pretrained(POCKET_FOLDER, dtype=torch.float32)
    config = AutoConfig.from_pretrained(POCKET_FOLDER)
    return LocalEngine(Vlm(model, load_processor("pocket", str(POCKET_FOLDER), config, False), name="pocket"))


def chosen(count: int = 20) -> list[Record]:
    third = count // 3
    harmful = records("test", "harmful", count - 2 * third)
    return harmful + records("test", "harmless", third) + records("test", "question", third)


@dataclass
class Reference:
    """Rows of text in `rows`, and arrays beside them under the names that the rows give."""

    engine: LocalEngine
    folder: Path
    rows: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]

    def keep(self, name: str, values: np.ndarray) -> str:
        self.arrays[name] = values
        return name

    def ask(self, number: int, prompt: Prompt, group: str, steered: Steered, **spec: Any) -> None:
        """Note the answers of rows 1 and on, each with its alpha."""
        settings = Settings(max_new_tokens=LENGTH)
        assert isinstance(steered.alpha, tuple)
        prepared = self.engine.prepare(prompt, settings, len(steered.alpha))
        *_, last = prepared.answer(steered)
        for row in last.rows:
            if row.alpha or group == "alphas":
                asked = {**spec, "alpha": row.alpha, "layers": steered.layers}
                asked |= {"positions": steered.positions, "steps": steered.steps}
                image = None if prompt.image is None else f"{number}.png"
                self.rows.append(
                    {"group": group, "prompt": prompt.text, "image": image, "spec": asked, "ids": list(row.ids)}
                )


def everywhere_but_reach(reference: Reference, number: int, shown: Prompt, text: np.ndarray) -> None:
    """Note each mode with each positions and steps; a state is reached for at the last position alone."""
    rng = np.random.default_rng(number)
    units = rng.standard_normal(text.shape).astype(np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    levels = (text * units).sum(axis=1) + 4 * rng.standard_normal(len(units)).astype(np.float32)
    names = {"vectors": reference.keep(f"units {number}", units), "levels": reference.keep(f"levels {number}", levels)}
    offsets = Offsets.load(ASSETS / "pocket-offsets.safetensors")
    layers = recipes_for("pocket")["dataset"].layers
    for steps in ("prompt", "all"):
        for positions in ("last", "all"):
            where = layers, positions, steps
            reference.ask(number, shown, "add", Steered(offsets, (0.0, 1.1), *where), vectors="offsets")
            project = Steered(Vectors(units, "project", levels), (0.0, 0.9), (1, 3, 4, 6), positions, steps)
            reference.ask(number, shown, "project", project, mode="project", **names)
        # One for each row: one for both would be for their mean.
        reach = Steered([Vectors(text, "reach")] * 2, (0.0, 0.6), (2, 4, 5), "last", steps)
        reference.ask(number, shown, "reach", reach, mode="reach", vectors=reference.keep(f"text {number}", text))


def note_next_tokens(reference: Reference, number: int, alone: Prompt) -> None:
    """Note what may come behind a prompt and an answer's first tokens, as a steered row would have gone on."""
    offsets = Offsets.load(ASSETS / "pocket-offsets.safetensors")
    engine = reference.engine
    prompt = engine.vlm.encode(alone.text, None)["input_ids"][0].tolist()
    behind = next(row["ids"] for row in reference.rows if row["prompt"] == alone.text)[:6]
    for steps in ("prompt", "all"):
        steered = Steered(offsets, 1.1, (1, 3, 4), "last", steps)
        found = engine.prepare(alone, Settings(), 1).next_token(steered, behind)
        name = reference.keep(f"next {number} {steps}", found.probabilities[0])
        spec = {"vectors": "offsets", "alpha": 1.1, "layers": (1, 3, 4), "steps": steps, "behind": len(behind)}
        row = {"group": "next", "prompt": prompt + behind, "image": None, "spec": spec, "probabilities": name}
        reference.rows.append(row | {"ids": [], "states": reference.keep(f"at {number} {steps}", found.states[0])})


def note_states(reference: Reference, people: Sequence[Record], shown: list[Prompt], texts: np.ndarray) -> None:
    """Note states with nothing added, with offsets added, and the gaps of rows that reach for the text's states."""
    offsets = Offsets.load(ASSETS / "pocket-offsets.safetensors")
    layers = (0, 2, 3, 7)
    reach = [Vectors(text, "reach") for text in texts]
    for name, steered in (
        ("plain", None),
        ("added", Steered(offsets, 1.1, layers)),
        ("gaps", Steered(reach, 1.0)),
        ("some gaps", Steered(reach, 0.7, layers)),
        ("no reach", Steered(reach, 0.0, layers)),
    ):
        reference.keep(f"states {name}", read_states(reference.engine, shown, steered))
    few = [record.prompt for record in people[:6]]
    sample = np.stack([made.values for made in extract_each(reference.engine, few)])
    reference.keep("sample", sample)
    reference.engine.blank("white").save(reference.folder / "blank.png")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    people = chosen()
    reference = Reference(engine(), folder, [], {})
    offsets = Offsets.load(ASSETS / "pocket-offsets.safetensors")
    reference.keep("offsets", offsets.values)
    layers = recipes_for("pocket")["dataset"].layers
    shown = [Prompt(record.prompt, record.image) for record in people]
    alone = [Prompt(record.prompt) for record in people]
    texts = read_states(reference.engine, alone)
    reference.keep("states text", texts)
    for number, (beside, text) in enumerate(zip(shown, alone, strict=True)):
        assert isinstance(beside.image, Image.Image)
        beside.image.save(folder / f"{number}.png")
        for prompt in (beside, text):
            reference.ask(number, prompt, "alphas", Steered(offsets, ALPHAS, layers), vectors="offsets")
        everywhere_but_reach(reference, number, beside, texts[number])
        note_next_tokens(reference, number, text)
    note_states(reference, people, shown, texts)
    np.savez(folder / "arrays.npz", **{name: np.asarray(values) for name, values in reference.arrays.items()})
    (folder / "reference.json").write_text(json.dumps(reference.rows))
    print(len(reference.rows), "answers in", folder)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
