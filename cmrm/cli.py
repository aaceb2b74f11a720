"""The command line: results on standard output, progress and messages on standard error.

Nothing here imports torch before a command runs, so that `--help` is quick.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .settings import (
    Corruption,
    Estimator,
    Layout,
    Method,
    Positions,
    Preset,
    Quantization,
    Split,
    Steps,
    Third,
    parse_alphas,
    parse_device_map,
    parse_layers,
)
from .terminal import report_progress, run_commands, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .answering.comparison import Row, Step
    from .workbench import Workbench

app = typer.Typer(
    help="See what CMRM steering does to a vision-language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[str, typer.Option(help="'pocket', a folder, or a hub model id.", envvar="CMRM_MODEL")]
Quantized = Annotated[Quantization, typer.Option(help="Weights of the text decoder.", envvar="CMRM_QUANTIZATION")]
Stored = Annotated[
    str | None,
    typer.Option(help="Offsets file of `extract`: a path, or hf://owner/name/file of the hub.", envvar="CMRM_OFFSETS"),
]
Placed = Annotated[
    str,
    typer.Option(
        "--device-map",
        help="A device, auto, balanced or sequential, or JSON from modules to devices; default: auto with CUDA.",
        envvar="CMRM_DEVICE_MAP",
    ),
]
Plain = Annotated[
    bool,
    typer.Option(
        "--plain-template", help="Bare prompts for a model without a chat template.", envvar="CMRM_PLAIN_TEMPLATE"
    ),
]


@app.command("compare")
def compare_command(
    prompt: Annotated[str, typer.Option(help="What to ask.")],
    image: Annotated[Path | None, typer.Option(help="Image file; without it the answer is text-only.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Strength, 0 to 2; default: the method's own.")] = None,
    method: Annotated[Method, typer.Option(help="Offsets of an anchor set, or of this prompt.")] = "dataset",
    model: Model = "pocket",
    quantization: Quantized = "auto",
    device_map: Placed = "",
    plain_template: Plain = False,
    offsets: Stored = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="For temperatures above 0: the likeliest tokens to draw from.")] = 1.0,
    seed: Annotated[int, typer.Option(help="For temperatures above 0, and for the random direction.")] = 0,
    layers: Annotated[str, typer.Option(help="Decoder layers such as 0-6,9; default: the recipe's.")] = "",
    positions: Annotated[Positions | None, typer.Option(help="Shifted in a pass; default: the recipe's.")] = None,
    steps: Annotated[Steps | None, typer.Option(help="Passes that are steered; default: the recipe's.")] = None,
    estimator: Annotated[Estimator | None, typer.Option(help="Of the offsets; default: as they were measured.")] = None,
    corruption: Annotated[Corruption | None, typer.Option(help="Of the offsets, likewise.")] = None,
    third: Annotated[Third, typer.Option(help="A third answer: of the text alone, or in a random direction.")] = "none",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, which `repeat` reads.")] = False,
) -> None:
    """Answer one prompt about one image, unsteered and steered, side by side."""
    settings: dict[str, Any] = {
        "alpha": alpha,
        "method": method,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "layers": parse_layers(layers),
        "positions": positions,
        "steps": steps,
        "estimator": estimator,
        "corruption": corruption,
        "third": third,
    }
    bench = open_workbench(model, quantization, device_map, plain_template, offsets)
    rows = _last(bench.compare(image, prompt, **settings)).rows
    if as_json:
        from .saved_run import described

        _print_json(described(bench, image, prompt, rows, **settings))
    else:
        _print_panes(rows, third)


@app.command()
def repeat(
    run: Annotated[Path, typer.Argument(help="A run: what the page's Download or `compare --json` made.")],
    model: Annotated[str, typer.Option(help="Default: the run's own.", envvar="CMRM_MODEL")] = "",
    quantization: Annotated[Quantization | None, typer.Option(help="Default: the run's own.")] = None,
    device_map: Placed = "",
    plain_template: Plain = False,
    offsets: Stored = None,
) -> None:
    """Make a comparison again, and say whether the answers are the same; if not, the status is 1."""
    from .saved_run import Run

    made = Run.read(run)
    bench = open_workbench(*made.loaded_by(model, quantization), device_map, plain_template, offsets)
    rows = _last(bench.compare(made.image, made.prompt, **made.settings)).rows
    _print_panes(rows, made.settings["third"])
    same = [row.text for row in rows] == made.texts
    for difference in made.differences(bench):
        say(difference)
    say("The answers are those of the run." if same else "The answers differ from those of the run.")
    if not same:
        raise SystemExit(1)


def open_workbench(
    model: str, quantization: Quantization, device_map: str, plain_template: bool, offsets: str | None
) -> "Workbench":
    """Open what the options name, with progress and notes on standard error."""
    from .workbench import Workbench

    placement, computing = parse_device_map(device_map), report_progress("computing offsets")
    bench = Workbench.open(model, quantization, offsets, computing, placement, plain_template=plain_template)
    for note in bench.notes:
        say(note)
    return bench


def _last(stream: "Iterator[Step]") -> "Step":
    """Follow a comparison to its end, counting tokens on a terminal."""
    for step in stream:
        if sys.stderr.isatty():
            end = "\n" if step.done else ""
            print(f"\r{max(row.tokens for row in step.rows)} tokens", end=end, file=sys.stderr)
    return step


def _print_panes(rows: "tuple[Row, ...]", third: Third) -> None:
    names = ("unsteered", "steered", {"text": "text only", "random": "random direction"}.get(third, ""))
    print(*(_pane(name, row) for name, row in zip(names, rows, strict=False)), sep="\n")


def _pane(name: str, row: "Row") -> str:
    head = f"{name} (alpha {row.alpha:g}): {row.verdict}, {row.tokens} tokens, {row.tokens_per_second:.1f} tokens/s"
    return f"{head}\n  {row.text}\n"


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


@app.command()
def sweep(
    prompt: Annotated[str, typer.Option(help="What to ask.")],
    image: Annotated[Path | None, typer.Option(help="Image file; without it the answers are text-only.")] = None,
    alphas: Annotated[str, typer.Option(help="A range start:end:step, or a list.")] = "0:2:0.25",
    method: Annotated[Method, typer.Option(help="Offsets of an anchor set, or of this prompt.")] = "dataset",
    model: Model = "pocket",
    quantization: Quantized = "auto",
    device_map: Placed = "",
    plain_template: Plain = False,
    offsets: Stored = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 128,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """Answer one prompt at many alphas in one batch: where does it refuse, where does the language break?

    Fluency is the mean log-probability of an answer under the unsteered model.
    """
    chosen = parse_alphas(alphas)
    bench = open_workbench(model, quantization, device_map, plain_template, offsets)
    rows = _last(bench.sweep(image, prompt, chosen, method=method, max_new_tokens=max_new_tokens)).rows
    if as_json:
        _print_json([asdict(row) for row in rows])
        return
    print("alpha  verdict   tokens  fluency  answer")
    for row in rows:
        fluency = "" if row.fluency is None else f"{row.fluency:.2f}"
        print(f"{row.alpha:5.2f}  {row.verdict:8}  {row.tokens:6}  {fluency:>7}  {row.text}")


@app.command()
def extract(
    out: Annotated[Path, typer.Option(help="Where to write the offsets, a .safetensors file.")],
    anchors: Annotated[str, typer.Option(help="Anchor set: a JSONL or text file, or a set in assets/.")] = "",
    estimator: Annotated[Estimator | None, typer.Option(help="Default: the model's recipe.")] = None,
    corruption: Annotated[Corruption | None, typer.Option(help="Image beside which the states are taken.")] = None,
    model: Model = "pocket",
    quantization: Quantized = "auto",
    device_map: Placed = "",
    plain_template: Plain = False,
) -> None:
    """Measure dataset-level offsets on an anchor set and write them to a file."""
    from .model.vlm import Vlm
    from .steering.anchors import load_anchors
    from .steering.extraction import extract_offsets
    from .steering.recipes import recipes_for

    vlm = Vlm.load(model, quantization, parse_device_map(device_map), plain_template=plain_template)
    for note in vlm.notes:
        say(note)
    recipe = recipes_for(vlm.identity.model)["dataset"]
    chosen = load_anchors(anchors or recipe.anchors)
    offsets = extract_offsets(
        vlm,
        chosen.texts,
        estimator=estimator or recipe.estimator,
        corruption=corruption or recipe.corruption,
        progress=report_progress("passes"),
    )
    offsets.save(out)
    summary = {"file": str(out), "fits": asdict(offsets.fits), "origin": asdict(offsets.origin)}
    _print_json(summary)


@app.command("inspect")
def inspect_command(
    file: Annotated[str, typer.Argument(help="An offsets file: a path, or hf://owner/name/file of the hub.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what an offsets file fits, how it was made, and how long its vectors are."""
    from .steering.offsets_file import OffsetsFile

    made = OffsetsFile.read(file)
    if as_json:
        _print_json(made.header())
        return
    for name, text in made.facts().items():
        print(f"{name:15}", text)
    print("norms by layer ", *(f"{norm:g}" for norm in made.norms))


@app.command()
def evaluate(
    out: Annotated[Path, typer.Option(help="Folder for the report; a run that is in it goes on.")] = Path("results"),
    data: Annotated[
        list[str] | None,
        typer.Option(help="JSONL, CSV or parquet files, or hf:NAME of the hub; else the pocket's own."),
    ] = None,
    layout: Annotated[Layout, typer.Option(help="What the data's columns mean.")] = "auto",
    images: Annotated[Path | None, typer.Option(help="Folder of the data's images, or one image for all.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out records that can't be used.")] = False,
    split: Annotated[Split, typer.Option(help="dev to tune, test for figures to quote.")] = "test",
    requests: Annotated[int | None, typer.Option(help="Most harmful and harmless requests; pocket: 400.")] = None,
    questions: Annotated[int | None, typer.Option(help="Most questions about images; pocket: 1000.")] = None,
    rows: Annotated[
        str, typer.Option(help="Groups of rows: ceilings, cmrm, estimators, alphas, places, rivals, controls.")
    ] = "ceilings,cmrm,estimators,alphas,places,rivals,controls",
    preset: Annotated[
        Preset, typer.Option(help="paper: the paper's rows beside its figures, instead of --rows.")
    ] = "none",
    alphas: Annotated[str, typer.Option(help="Of the group alphas.")] = "0.25:2:0.25",
    judge: Annotated[str, typer.Option(help="A guard model beside the phrases: hf:NAME or a folder.")] = "",
    batch: Annotated[int, typer.Option(help="Prompts in a batch.")] = 16,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 128,
    model: Model = "pocket",
    quantization: Quantized = "auto",
    device_map: Placed = "",
    plain_template: Plain = False,
    offsets: Stored = None,
) -> None:
    """Measure refusals, over-refusals and right answers under CMRM, rivals and controls; print the table.

    May be interrupted and repeated, and shared among processes by `accelerate launch -m cmrm evaluate ...`.
    """
    from .evaluation import Plan, run

    plan = Plan(
        out,
        model,
        quantization,
        parse_device_map(device_map),
        plain_template,
        offsets,
        tuple(data or ["pocket"]),
        layout,
        images,
        skip_bad,
        split,
        requests,
        questions,
        ("paper",) if preset == "paper" else tuple(name.strip() for name in rows.split(",")),
        parse_alphas(alphas),
        judge,
        batch,
        max_new_tokens,
    )
    try:
        report = run(plan, report_progress("answers"), say)
    except KeyboardInterrupt:
        say(f"Stopped. What was answered is kept in {str(out)!r}; the same command goes on from there.")
        raise SystemExit(130) from None
    if report:
        print(report)


def main() -> None:
    """Run a command line; bad input ends with one sentence and status 2."""
    run_commands(app)
