"""The command line: results on standard output, progress and messages on standard error.

Nothing here imports torch before a command runs, so that `--help` is quick.
"""

import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import Field, asdict, fields, replace
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from .errors import CmrmError
from .files import source_of
from .settings import (
    MEASURED,
    SWEPT,
    Layout,
    ModelChoice,
    Preset,
    Settings,
    Split,
    check_prompt,
    parse_alphas,
)
from .signatures import show_parameters, take_settings
from .terminal import mask_keys, report_progress, run_commands, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gradio import Blocks
    from PIL import Image

    from .answering.steps import Row, Step
    from .saved_run import Difference
    from .workbench import Workbench

app = typer.Typer(
    help="See what CMRM steering does to a vision-language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Stored = Annotated[
    str | None,
    typer.Option(help="Offsets file of `extract`: a path, or hf://owner/name/file of the hub.", envvar="CMRM_OFFSETS"),
]


def _take_model(**own: object) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command's `chosen` be options, one for each field of `ModelChoice`; `own` are a run's, by default."""

    def take(command: Callable[..., None]) -> Callable[..., None]:
        shown = signature(command)
        parameters = list(shown.parameters.values())
        place = [one.name for one in parameters].index("chosen")
        parameters[place : place + 1] = [_model_option(one, own) for one in fields(ModelChoice)]

        @wraps(command)
        def run(**given: object) -> None:
            chosen = {one.name: given.pop(one.name) for one in fields(ModelChoice)}
            command(chosen=chosen if own else ModelChoice(**chosen), **given)  # type: ignore[arg-type]

        return show_parameters(run, shown.replace(parameters=parameters))

    return take


def _model_option(choice: Field, own: dict[str, object]) -> Parameter:
    """Return a choice of a model as an option."""
    kind, default, text, variable = choice.type, choice.default, choice.metadata["option"], choice.metadata["variable"]
    if choice.name in own:
        kind, default, text = Optional[kind], own[choice.name], "Default: the run's own."  # noqa: UP045  # a value
        # A run of 4 bits is repeated in 4 bits, whatever the machine is set to.
        variable = None if choice.name == "quantization" else variable
    name = f"--{choice.name.replace('_', '-')}"
    annotation = Annotated[kind, typer.Option(name, help=text, envvar=variable)]  # type: ignore[valid-type]
    return Parameter(choice.name, Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation)


def _option(setting: Field) -> Parameter:
    """Return a setting as an option; layers are a text."""
    kind, default = (str, "") if setting.name == "layers" else (setting.type, setting.default)
    annotation = Annotated[kind, typer.Option(help=setting.metadata["option"])]  # type: ignore[valid-type]
    return Parameter(setting.name, Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation)


@app.command("compare")
@_take_model()
@take_settings(_option, "image")
def compare_command(
    prompt: Annotated[str, typer.Option(help="What to ask.")],
    image: Annotated[Path | None, typer.Option(help="Image file; without it the answer is text-only.")] = None,
    chosen: ModelChoice = ModelChoice(),  # noqa: B008  # frozen
    offsets: Stored = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, which `repeat` reads.")] = False,
    **choices: object,
) -> None:
    """Answer one prompt about one image, unsteered and steered, side by side."""
    settings, picture = Settings.parse(**choices), _check_question(prompt, image)
    bench = open_workbench(chosen, offsets)
    rows = _follow(bench.compare(picture, prompt, settings)).rows
    if as_json:
        from .saved_run import write_run

        _print_json(write_run(bench, image, prompt, settings, rows))
    else:
        _print_panes(rows, settings)


@app.command()
@_take_model(model=None, quantization=None)
def repeat(
    run: Annotated[Path, typer.Argument(help="A run: what the page's Download or `compare --json` made.")],
    chosen: dict[str, Any],
    offsets: Stored = None,
) -> None:
    """Make a comparison again, and say whether the answers are the same; if not, the status is 1."""
    from .saved_run import Run

    made = Run.read(run)
    picture = made.image
    own = ModelChoice(**{name: value for name, value in chosen.items() if value is not None})
    if own.engine == "local":
        model, quantization = made.source(chosen["model"] or "", chosen["quantization"])
        own = replace(own, model=model, quantization=quantization)
    bench = open_workbench(own, offsets)
    rows = _follow(bench.compare(picture, made.prompt, made.settings)).rows
    _print_panes(rows, made.settings)
    same = [row.text for row in rows] == made.texts
    for difference in made.differences(bench):
        say(_describe_difference(difference))
    say("The answers are those of the run." if same else "The answers differ from those of the run.")
    if not same:
        raise SystemExit(1)


def _describe_difference(found: "Difference") -> str:
    if found.what == "offsets":
        return "The offsets are others; give those of the run by --offsets."
    if found.what == "model":
        return f"The {found.name} was {found.then!r} and is {found.now!r}."
    return f"The version of {found.name} was {found.then} and is {found.now}."


def _check_question(prompt: str, image: Path | None) -> "Image.Image | None":
    """Return the picture, once it is known that both can be read."""
    from .images import open_image

    check_prompt(prompt)
    return None if image is None else open_image(image)


def open_workbench(chosen: ModelChoice, offsets: str | None) -> "Workbench":
    """Open what the options name, with progress and notes on standard error."""
    from .workbench import Workbench

    bench = Workbench.open(chosen, offsets, report_progress("computing offsets"))
    for note in bench.notes:
        say(note)
    return bench


def _follow(stream: "Iterator[Step]") -> "Step":
    """Follow a comparison to its end, counting tokens on a terminal."""
    for step in stream:
        if sys.stderr.isatty():
            end = "\n" if step.done else ""
            print(f"\r{max(row.tokens for row in step.rows)} tokens", end=end, file=sys.stderr)
    return step


def _print_panes(rows: "tuple[Row, ...]", settings: Settings) -> None:
    names = ("unsteered", "steered", {"text": "text only", "random": "random direction"}.get(settings.third, ""))
    for name, row in zip(names, rows, strict=False):
        measures = f"{row.verdict}, {row.tokens} tokens, {row.tokens_per_second:.1f} tokens/s"
        print(f"{name} (alpha {row.alpha:g}): {measures}\n  {row.text}\n")


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


@app.command()
@_take_model()
@take_settings(_option, "alphas", *SWEPT)
def sweep(
    prompt: Annotated[str, typer.Option(help="What to ask.")],
    image: Annotated[Path | None, typer.Option(help="Image file; without it the answers are text-only.")] = None,
    alphas: Annotated[str, typer.Option(help="A range start:end:step, or a list.")] = "0:2:0.25",
    chosen: ModelChoice = ModelChoice(),  # noqa: B008  # frozen
    offsets: Stored = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
    **choices: object,
) -> None:
    """Answer one prompt at many alphas in one batch: where does it refuse, where does the language break?

    Fluency is the mean log-probability of an answer under the unsteered model.
    """
    settings, strengths, picture = Settings.parse(**choices), parse_alphas(alphas), _check_question(prompt, image)
    bench = open_workbench(chosen, offsets)
    rows = _follow(bench.sweep(picture, prompt, strengths, settings)).rows
    if as_json:
        _print_json([asdict(row) for row in rows])
        return
    print("alpha  verdict   tokens  fluency  answer")
    for row in rows:
        fluency = "" if row.fluency is None else f"{row.fluency:.2f}"
        print(f"{row.alpha:5.2f}  {row.verdict:8}  {row.tokens:6}  {fluency:>7}  {row.text}")


@app.command()
@_take_model()
@take_settings(_option, "anchors", *MEASURED)
def extract(
    out: Annotated[Path, typer.Option(help="Where to write the offsets, a .safetensors file.")],
    anchors: Annotated[str, typer.Option(help="Anchor set: a JSONL or text file, or a set in assets/.")] = "",
    chosen: ModelChoice = ModelChoice(),  # noqa: B008  # frozen
    **choices: object,
) -> None:
    """Measure dataset-level offsets on an anchor set and write them to a file."""
    from .engines.opening import open_engine
    from .steering.anchors import load_anchors
    from .steering.extraction import extract_offsets
    from .steering.recipes import recipes_for

    settings, given = Settings.parse(**choices), load_anchors(anchors) if anchors else None
    engine = open_engine(chosen)
    for note in engine.notes:
        say(note)
    recipe = recipes_for(engine.identity.model)["dataset"]
    texts = (given or load_anchors(recipe.anchors)).texts
    estimator, corruption = recipe.settle_measuring(settings)
    report = report_progress("passes")
    offsets = extract_offsets(engine, texts, estimator=estimator, corruption=corruption, report=report)
    offsets.save(out)
    _print_json({"file": str(out), "fits": asdict(offsets.fits), "origin": asdict(offsets.origin)})


@app.command("inspect")
def inspect_command(
    file: Annotated[str, typer.Argument(help="An offsets file: a path, or hf://owner/name/file of the hub.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what an offsets file fits, how it was made, and how long its vectors are."""
    from .steering.offsets import Offsets

    made = Offsets.load(file)
    if as_json:
        _print_json(made.header())
        return
    for name, text in made.facts().items():
        print(f"{name:15}", text)
    print("norms by layer ", *(f"{norm:g}" for norm in made.norms))


@app.command()
@_take_model()
@take_settings(_option, "batch", "max_new_tokens")
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
    chosen: ModelChoice = ModelChoice(),  # noqa: B008  # frozen
    offsets: Stored = None,
    **choices: object,
) -> None:
    """Measure refusals, over-refusals and right answers under CMRM, rivals and controls; print the table.

    May be interrupted and repeated, and shared among processes by `accelerate launch -m cmrm evaluate ...`.
    """
    from .evaluation import Plan, run

    plan = Plan(
        out=out,
        chosen=chosen,
        offsets=offsets,
        data=tuple(data or ["pocket"]),
        layout=layout,
        images=images,
        skip_bad=skip_bad,
        split=split,
        requests=requests,
        questions=questions,
        groups=("paper",) if preset == "paper" else tuple(name.strip() for name in rows.split(",")),
        alphas=parse_alphas(alphas),
        judge=judge,
        batch=batch,
        settings=Settings.parse(**choices),
    )
    try:
        report = run(plan, report_progress("answers"), say)
    except KeyboardInterrupt:
        say(f"Stopped. What was answered is kept in {str(out)!r}; the same command goes on from there.")
        raise SystemExit(130) from None
    if report:
        print(report)


@app.command("app")
@_take_model()
def serve(
    chosen: ModelChoice = ModelChoice(),  # noqa: B008  # frozen
    offsets: Stored = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", envvar=["CMRM_HOST", "GRADIO_SERVER_NAME"])
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            help="Default: the first free from 7860.", envvar=["CMRM_PORT", "GRADIO_SERVER_PORT"], min=1, max=65535
        ),
    ] = None,
    mcp: Annotated[
        bool, typer.Option("--mcp", help="Also serve the endpoints as tools of an MCP server.", envvar="CMRM_MCP")
    ] = False,
) -> None:
    """See what CMRM steering does to a vision-language model, side by side in the browser."""
    zero_gpu = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "true")
    if zero_gpu:
        import spaces  # must come before torch
    from .server.memory import share_arenas

    share_arenas()
    say(f"Loading {chosen.model} ..." if chosen.engine == "local" else f"Connecting to {chosen.engine_url} ...")
    from .engines.server import may_pass
    from .server.health import health
    from .server.launch import launch
    from .ui import build
    from .ui.requests_log import log_to_standard_error

    host = host or ("0.0.0.0" if "SPACE_ID" in os.environ else None)

    def open_page() -> "tuple[Workbench, Blocks]":
        bench = open_workbench(chosen, offsets)
        if zero_gpu:
            from .server.zerogpu import on_zero_gpu

            bench = on_zero_gpu(bench, spaces.GPU)
        return bench, build(bench)

    try:
        bench, page = open_page()
    except CmrmError as error:
        if not may_pass(error):
            raise
        (bench, page), port = _wait_for_server(open_page, host, port, str(error))
    log_to_standard_error()
    launch(page, host, port, health=health(bench, page), mcp=mcp, at_once=bench.engine.at_once)


def _wait_for_server(
    open_page: "Callable[[], tuple[Workbench, Blocks]]", host: str | None, port: int | None, reason: str
) -> "tuple[tuple[Workbench, Blocks], int]":
    """Open the page once the server is up, and return the port that it is to have; until then, say what is waited for.

    Raises:
        CmrmError: what does not pass by itself.
    """
    from .engines.server import may_pass
    from .server.waiting import serve_waiting_page

    say(f"{reason} Waiting for it.")
    with serve_waiting_page(host, port, reason) as taken:
        while True:
            time.sleep(2)
            try:
                return open_page(), taken
            except CmrmError as error:
                if not may_pass(error):
                    raise


@app.command("serve-vllm", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve_vllm(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="'pocket', a folder, or a hub model id.", envvar="CMRM_MODEL")] = "pocket",
    quantization: Annotated[str, typer.Option(help="As vLLM has it: awq, gptq, fp8, ...; default: none.")] = "",
    max_num_seqs: Annotated[int, typer.Option(help="Answers at once; a comparison is two.", min=2)] = 64,
    prefix_cache: Annotated[bool, typer.Option(help="Read a prompt once for all answers.")] = True,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    python: Annotated[
        str, typer.Option(help="The Python of vLLM's environment.", envvar="CMRM_VLLM_PYTHON")
    ] = sys.executable,
) -> None:
    """Start a vLLM server whose model can be steered, for --engine vllm; what follows is given to vLLM as it is."""
    command = [python, "-m", "cmrm.engines.vllm_plugin", "--model", source_of(model), "--served-model-name", model]
    command += ["--max-num-seqs", str(max_num_seqs), "--host", host, "--port", str(port)]
    command += ["--enable-prefix-caching" if prefix_cache else "--no-enable-prefix-caching"]
    command += [*(["--quantization", quantization] if quantization else []), *context.args]
    say(shlex.join(mask_keys(command)))
    try:
        os.execvp(python, command)
    except OSError as error:
        raise CmrmError(f"{python!r} can't be run ({error.strerror}); name vLLM's Python by --python.") from error


def main() -> None:
    """Run a command line; bad input ends with one sentence and status 2."""
    run_commands(app)
