"""`python -m benchmarks`: the cost of comparing, as ratios to one stock answer of the same run."""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .lines import Line
from .page import measured

REPEATS = 7


def main(
    repeats: Annotated[int, typer.Option(help="Interleaved rounds; the median counts.")] = REPEATS,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    folder: Annotated[Path | None, typer.Option(help="Where to keep the random model.")] = None,
) -> None:
    """Time every way of answering on a model of real geometry with random weights."""
    with tempfile.TemporaryDirectory() as scratch:
        home = folder or Path(scratch)
        if not (home / "config.json").is_file():
            say("building the model ...")
            run("build", home)
        peak = memory(home)  # first, as the system counts this process's own peak in what it starts
        lines = [*timed(home, repeats), peak]
        lines += measured(repeats, say) if shutil.which("chromium") else []
        seconds = start_up(home)
    if as_json:
        print(json.dumps({"lines": [asdict(line) for line in lines], "seconds": seconds}, indent=2))
        return
    print("| what | ratio | must | to |\n|---|---|---|---|")
    print(*lines, sep="\n")
    print("\n| start-up | seconds |\n|---|---|")
    print(*(f"| {name} | {value:.2f} |" for name, value in seconds.items()), sep="\n")


def say(message: str) -> None:
    """Print a line to standard error."""
    print(message, file=sys.stderr, flush=True)


def run(*arguments: object) -> str:
    """Run one of `benchmarks.process`'s jobs in a fresh process and return what it prints."""
    command = [sys.executable, "-m", "benchmarks.process", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def timed(home: Path, repeats: int) -> list[Line]:
    """Run all work once a round, in turn, so that a slow minute slows everything."""
    from cmrm import Vlm

    from .work import Bench

    bench = Bench.of(Vlm.load(home))
    works = bench.all()
    seconds: dict[str, list[float]] = {work.name: [] for work in works}
    for number in range(repeats + 1):
        for work in works:
            say(f"round {number}/{repeats}: {work.name}")
            work.prepare()
            begin = time.perf_counter()
            work.run()
            if number:  # the first round warms up
                seconds[work.name].append(time.perf_counter() - begin)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    say(f"one stock answer takes {median['one stock answer']:.2f} s")
    lines = [Line(w.name, median[w.name] / median[w.against], w.must, w.against) for w in works if w.name != w.against]
    once, twice = "compare, one steered row", "stock at batch 2"
    return [*lines, Line(once, median[once] / median[twice], 1.0, twice)]


def memory(home: Path) -> Line:
    """Peak resident memory of one comparison against one stock answer, each in a fresh process."""
    peaks = {job: statistics.median(float(run(job, home)) for _ in range(3)) for job in ("stock", "compare")}
    return Line("peak memory of compare", peaks["compare"] / peaks["stock"], 1.10, "one stock answer")


def start_up(home: Path) -> dict[str, float]:
    """Seconds from nothing to each milestone, in fresh processes."""
    commands = {"import cmrm": ["-c", "import cmrm"], "python -m cmrm --help": ["-m", "cmrm", "--help"]}
    seconds = {}
    for name, arguments in commands.items():
        begin = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        seconds[name] = time.perf_counter() - begin
    return seconds | json.loads(run("start", home))


if __name__ == "__main__":
    typer.run(main)
