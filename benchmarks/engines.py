"""`python -m benchmarks.engines`: many comparisons at once by the local engine and by a vLLM server, as a table.

Start the server first, with the pocket model in the precision that the local engine has without quantization:
`python -m cmrm serve-vllm --dtype bfloat16` (or float32, as the first line of the table says).
"""

import itertools
import json
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
import typer

from .__main__ import say
from .soak import PATIENCE, PICTURES, open_bench, served

LENGTH = 48
_PICTURES = ("blank.png", "circle.png", "pair.png", "star.png", "stripes.png")
ENGINES = ("local", "vllm")

Ask = Callable[[int], Iterator[bool]]
"""Makes comparison number k: yields whether a token is there yet."""


@dataclass(frozen=True)
class Timing:
    """Seconds until all comparisons of one round were done, and until each had its first token."""

    total: float
    firsts: tuple[float, ...]


def time_round(ask: Ask, count: int) -> Timing:
    """Make `count` comparisons at once."""
    together = threading.Barrier(count + 1)

    def make(number: int) -> tuple[float, float]:
        together.wait()
        begin, first = time.perf_counter(), 0.0
        for there in ask(number):
            first = first or (there and time.perf_counter() - begin) or 0.0
        return first, time.perf_counter()

    with ThreadPoolExecutor(count) as threads:
        running = [threads.submit(make, number) for number in range(count)]
        together.wait()
        begin = time.perf_counter()
        ends = [one.result() for one in running]
    return Timing(max(end for _, end in ends) - begin, tuple(first for first, _ in ends))


def ask_in_python(bench: Any, questions: list[tuple[str, str]]) -> Ask:
    """Compare by a workbench, as many at once as its engine answers."""
    from cmrm.settings import Settings

    turns, settings = threading.Semaphore(bench.engine.at_once), Settings(max_new_tokens=LENGTH)

    def ask(number: int) -> Iterator[bool]:
        image, prompt = questions[number]
        with turns:
            for step in bench.compare(PICTURES / image, prompt, settings):
                yield any(row.tokens for row in step.rows)

    return ask


def ask_the_page(url: str, questions: list[tuple[str, str]]) -> Ask:
    """Compare through the API of a page, by plain HTTP: Gradio's client polls, and would be a good part of the load."""
    api = httpx.Client(base_url=f"{url}/gradio_api", timeout=PATIENCE, limits=httpx.Limits(max_connections=None))

    def ask(number: int) -> Iterator[bool]:
        image, prompt = questions[number]
        uploaded = api.post("/upload", files={"files": (image, (PICTURES / image).read_bytes())}).raise_for_status()
        file = {"path": uploaded.json()[0], "meta": {"_type": "gradio.FileData"}}
        asked = {"image": file, "prompt": prompt, "max_new_tokens": LENGTH}
        call = api.post("/call/v2/compare", json=asked).raise_for_status()
        with api.stream("GET", f"/call/v2/compare/{call.json()['event_id']}") as answer:
            for event, data in itertools.pairwise(answer.iter_lines()):
                if event == "event: error":
                    raise SystemExit(f"The page could not answer: {data}")
                if event in ("event: generating", "event: complete"):
                    yield any(json.loads(data.removeprefix("data: "))[:2])

    return ask


def main(
    engine_url: Annotated[str, typer.Option(help="Where the server is.")] = "http://127.0.0.1:8000",
    counts: Annotated[str, typer.Option(help="Comparisons at once.")] = "1,8,32,64",
    rounds: Annotated[int, typer.Option(help="Of each, interleaved; the first warms up.")] = 3,
) -> None:
    """Time both engines, from Python and through the page, and print the medians."""
    from cmrm.pocket.records import records

    numbers = [int(count) for count in counts.split(",")]
    prompts = [record.prompt for record in records("dev", "harmful", max(numbers))]
    questions = [(_PICTURES[number % len(_PICTURES)], prompt) for number, prompt in enumerate(prompts)]
    options = {
        "local": ["--model", "pocket", "--quantization", "none"],
        "vllm": ["--engine", "vllm", "--engine-url", engine_url],
    }
    benches = {name: open_bench(options[name]) for name in ENGINES}
    dtypes = {name: bench.engine.identity.dtype for name, bench in benches.items()}
    if len(set(dtypes.values())) > 1:
        raise SystemExit(f"The engines compute in {dtypes}; start the server with --dtype {dtypes['local']}.")
    found: dict[tuple[str, str, int], list[Timing]] = {}
    with served(options["local"]) as local, served(options["vllm"]) as remote:
        urls = {"local": local, "vllm": remote}
        ways = {(name, "Python"): ask_in_python(benches[name], questions) for name in ENGINES}
        ways |= {(name, "the page"): ask_the_page(urls[name], questions) for name in ENGINES}
        for number in range(rounds + 1):
            for count in numbers:
                for (name, way), ask in ways.items():
                    say(f"round {number}/{rounds}: {count} by {name}, {way}")
                    timing = time_round(ask, count)
                    if number:
                        found.setdefault((name, way, count), []).append(timing)
    print(f"pocket model, {dtypes['local']}, {LENGTH} tokens, median of {rounds} rounds\n")
    print("| engine | through | at once | seconds | a second | first token, median | first token, 95% |")
    print("|---|---|---|---|---|---|---|")
    totals = {key: statistics.median(one.total for one in timings) for key, timings in found.items()}
    for (name, way, count), timings in found.items():
        firsts = sorted(first for one in timings for first in one.firsts)
        total, late = totals[name, way, count], firsts[math.ceil(0.95 * len(firsts)) - 1]
        cells = f"{total:.2f} | {count / total:.1f} | {statistics.median(firsts):.2f} | {late:.2f}"
        print(f"| {name} | {way} | {count} | {cells} |")
    print("\n| what | ratio | must |\n|---|---|---|")
    for way, most, least in (("Python", 1.1, 6), ("the page", 1.3, 3)):
        for count in numbers:
            ratio = totals["local", way, count] / totals["vllm", way, count]
            must = f"<= {most} of the time" if count == 1 else f">= {least}" if count == 32 else ""
            shown = f"{1 / ratio:.2f} of the time" if count == 1 else f"{ratio:.2f} times the throughput"
            print(f"| vLLM against local, {way}, {count} at once | {shown} | {must} |")


if __name__ == "__main__":
    typer.run(main)
