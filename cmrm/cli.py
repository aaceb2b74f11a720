"""The command line: results on standard output, progress and messages on standard error.

Nothing here imports torch before a command runs, so that `--help` is quick.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .errors import CmrmError
from .options import Corruption, Estimator, Method, Quantization, Split

if TYPE_CHECKING:
    from .comparison import Row, Step
    from .extraction import Progress

app = typer.Typer(
    help="See what CMRM steering does to a vision-language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[str, typer.Option(help="'pocket', a folder, or a hub model id.", envvar="CMRM_MODEL")]
Quantized = Annotated[Quantization, typer.Option(help="Weights of the text decoder.", envvar="CMRM_QUANTIZATION")]


@app.command("compare")
def compare_command(
    prompt: Annotated[str, typer.Option(help="What to ask.")],
    image: Annotated[Path | None, typer.Option(help="Image file; without it the answer is text-only.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Strength, 0 to 2; default: the method's own.")] = None,
    method: Annotated[Method, typer.Option(help="Offsets of an anchor set, or of this prompt.")] = "dataset",
    model: Model = "pocket",
    quantization: Quantized = "auto",
    offsets: Annotated[Path | None, typer.Option(help="Offsets file of `extract`.", envvar="CMRM_OFFSETS")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="For temperatures above 0.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Answer one prompt about one image, unsteered and steered, side by side."""
    from .workbench import Workbench

    bench = Workbench.open(model, quantization, offsets, progress("computing offsets"))
    for note in bench.notes:
        say(note)
    step: Step | None = None
    for step in bench.compare(
        image,
        prompt,
        alpha=alpha,
        method=method,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    ):
        if sys.stderr.isatty():
            print(f"\r{max(row.tokens for row in step.rows)} tokens", end="", file=sys.stderr)
    assert step is not None
    if sys.stderr.isatty():
        say("")
    names = ("unsteered", "steered")
    if as_json:
        details = {"model": asdict(bench.vlm.identity), "method": method, "seed": seed, "temperature": temperature}
        rows = {name: asdict(row) for name, row in zip(names, step.rows, strict=True)}
        print(json.dumps({"prompt": prompt, **rows, **details}, indent=2, ensure_ascii=False))
    else:
        for name, row in zip(names, step.rows, strict=True):
            print(_pane(name, row))


def _pane(name: str, row: "Row") -> str:
    head = f"{name} (alpha {row.alpha:g}): {row.verdict}, {row.tokens} tokens, {row.tokens_per_second:.1f} tokens/s"
    return f"{head}\n  {row.text}\n"


@app.command()
def extract(
    out: Annotated[Path, typer.Option(help="Where to write the offsets, a .safetensors file.")],
    anchors: Annotated[str, typer.Option(help="Anchor set: a JSONL or text file, or a set in assets/.")] = "",
    estimator: Annotated[Estimator | None, typer.Option(help="Default: the model's recipe.")] = None,
    corruption: Annotated[Corruption | None, typer.Option(help="Image beside which the states are taken.")] = None,
    model: Model = "pocket",
    quantization: Quantized = "auto",
) -> None:
    """Measure dataset-level offsets on an anchor set and write them to a file."""
    from .anchors import load_anchors
    from .extraction import extract_offsets
    from .model import Vlm
    from .recipes import recipes_for

    vlm = Vlm.load(model, quantization)
    recipe = recipes_for(vlm.identity.model)["dataset"]
    chosen = load_anchors(anchors or recipe.anchors)
    offsets = extract_offsets(
        vlm,
        chosen.texts,
        estimator=estimator or recipe.estimator,
        corruption=corruption or recipe.corruption,
        progress=progress("passes"),
    )
    offsets.save(out)
    summary = {"file": str(out), "fits": asdict(offsets.fits), "origin": asdict(offsets.origin)}
    print(json.dumps(summary, indent=2))


@app.command()
def evaluate(
    out: Annotated[Path, typer.Option(help="Folder for results.json and table.md.")] = Path("results"),
    model: Annotated[str, typer.Option(help="Only 'pocket' ships with data to be judged on.")] = "pocket",
    quantization: Quantized = "auto",
    split: Annotated[Split, typer.Option(help="dev to tune, test for figures to quote.")] = "test",
    requests: Annotated[int, typer.Option(help="Requests a row.")] = 400,
    questions: Annotated[int, typer.Option(help="Questions about images.")] = 1000,
) -> None:
    """Measure refusals, over-refusals and answers about images, with controls; print the table."""
    from .evaluation import evaluate_pocket

    report = evaluate_pocket(
        model, quantization, split=split, requests=requests, questions=questions, progress=progress("answers")
    )
    report.write(out)
    print(report.table())


def progress(what: str) -> "Progress":
    """Return a reporter that keeps one line of standard error up to date."""
    live = sys.stderr.isatty()

    def report(done: int, total: int) -> None:
        if live or done == total or done % max(1, total // 10) == 0:
            print(f"{what}: {done}/{total}", end="\r" if live and done < total else "\n", file=sys.stderr, flush=True)

    return report


def say(message: str) -> None:
    """Print a line to standard error."""
    print(message, file=sys.stderr)


def main() -> None:
    """Run the command line; bad input ends with one sentence and status 2."""
    try:
        app()
    except CmrmError as error:
        say(f"Error: {error}")
        raise SystemExit(2) from None
