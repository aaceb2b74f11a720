"""`python -m benchmarks.seven_b --folder DIR`: LLaVA-1.5-7B's exact geometry on a CPU, as far as memory and time go.

The weights are random, so nothing is downloaded and nothing is learned about what it answers.
"""

import json
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Figures = dict[str, Any]

ANCHORS = ("Bake some bread.", "Pick a neighbour's lock.", "Grow a rose.", "Forge a passport.")
TOKENS = 8


def main(
    folder: Annotated[
        Path, typer.Option(help="Where to build the checkpoint: 5 GB for 7b. One that is there is used.")
    ],
    size: Annotated[Literal["7b", "small"], typer.Option(help="small: to see that all works.")] = "7b",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Build the quantized checkpoint shard by shard, load it, extract offsets and answer side by side."""
    # Each in a process of its own, started by one that has no torch, so that peaks are those of the work alone.
    results: dict[str, Figures] = {}
    if not (folder / "config.json").is_file():
        results["build"] = _in_child(_build, folder, size)
    results["use"] = _in_child(_use, folder, size)
    if as_json:
        print(json.dumps({"size": size, **results}, indent=2))
        return
    print("| step | figure | |\n|---|---|---|")
    for step, figures in results.items():
        for name, value in figures.items():
            print(f"| {step} | {name} | {f'{value:.3g}' if isinstance(value, float) else value} |")


def _in_child(job: Callable[[Path, str], Figures], folder: Path, size: str) -> Figures:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_measured, job, folder, size).result()


def _measured(job: Callable[[Path, str], Figures], folder: Path, size: str) -> Figures:
    figures = job(folder, size)
    return figures | {"peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2}


def _build(folder: Path, size: str) -> Figures:
    from .sharded import build

    begin = time.perf_counter()
    build(folder, size)
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return {"seconds": time.perf_counter() - begin, "checkpoint GB": stored / 1024**3}


def _use(folder: Path, _size: str) -> Figures:
    """The normal path, from the folder to two answers."""
    from cmrm import LocalEngine, Vlm, compare, extract_offsets

    from .geometry import picture

    marks = [time.perf_counter()]
    vlm = Vlm.load(folder)
    vlm.model.generation_config.eos_token_id = []  # random weights would end an answer anywhere
    marks.append(time.perf_counter())
    offsets = extract_offsets(LocalEngine(vlm), ANCHORS, estimator="mean")
    marks.append(time.perf_counter())
    image = picture()
    seconds = [
        time.perf_counter() for _ in compare(vlm, image, "What is this?", offsets, (1.0,), max_new_tokens=TOKENS)
    ]
    tokens = vlm.encode("What is this?", image)["input_ids"][0].tolist()
    return {
        "quantization": vlm.identity.quantization,
        "parameters (billions)": _parameters(vlm.model) / 1e9,
        "image tokens": tokens.count(vlm.network.image_token),
        "seconds to load": marks[1] - marks[0],
        f"seconds for offsets of {len(ANCHORS)} anchors": marks[2] - marks[1],
        "seconds to the first token of both answers": seconds[0] - marks[2],
        "seconds a token of both answers": (seconds[TOKENS - 1] - seconds[0]) / (TOKENS - 1),
        "tokens of each answer": TOKENS,
    }


def _parameters(model: Any) -> int:
    """Count weights; of a 4-bit one, the elements it stands for."""
    states = ((weight, getattr(weight, "quant_state", None)) for weight in model.parameters())
    return sum(weight.numel() if state is None else state.shape.numel() for weight, state in states)


if __name__ == "__main__":
    typer.run(main)
