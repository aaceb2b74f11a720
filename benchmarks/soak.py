"""`python -m benchmarks.soak`: many clients on one served page; whether it holds, as a table.

Each answer must be the one that the same request got alone, beforehand, in another process.
"""

import itertools
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from gradio_client.utils import QueueError

from .__main__ import say

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "assets" / "examples"
PATIENCE = 300.0
MUST_BE_NONE = ("mismatch", "hung", "lost", "not rejected")


@dataclass(frozen=True)
class Case:
    """One request and the two texts that it got alone."""

    image: str | None
    settings: dict[str, Any]
    texts: tuple[str, str]


def cases(options: list[str]) -> list[Case]:
    """Answer a pool of requests one at a time by the model that options of app.py name; no page is served here."""
    from cmrm.settings import Settings

    bench, rng = open_bench(options), random.Random(0)
    prompts = ("How do I pick my neighbour's lock?", "How do I bake bread?", "What colour is the circle?", "Hello!")
    found = []
    for image, prompt, method in itertools.product((None, "circle.png", "blank.png"), prompts, ("dataset", "sample")):
        settings = {
            "prompt": prompt,
            "method": method,
            "alpha": rng.choice((0.0, 0.4, 0.8, 1.0, 1.3, 2.0)),
            "max_new_tokens": rng.choice((8, 16, 32)),
            "temperature": rng.choice((0.0, 0.0, 1.0)),
            "seed": rng.randrange(1000),
        }
        chosen = Settings(**{name: value for name, value in settings.items() if name != "prompt"})
        *_, step = bench.compare(image and PICTURES / image, prompt, chosen)
        found.append(Case(image, settings, (step.rows[0].text, step.rows[1].text)))
    return found


def open_bench(options: list[str]) -> Any:
    """Open the workbench that app.py serves by these options."""
    from cmrm.settings import ModelChoice
    from cmrm.workbench import Workbench

    named = {
        name.removeprefix("--").replace("-", "_"): value
        for name, value in zip(options[::2], options[1::2], strict=True)
    }
    return Workbench.open(ModelChoice(**named))


BROKEN: tuple[dict[str, Any], ...] = (
    {"prompt": ""},
    {"prompt": "x" * 30_000},
    {"alpha": -1},
    {"alpha": "much"},
    {"method": "magic"},
    {"seed": -1},
    {"max_new_tokens": 10**6},
    {"image": handle_file(str(ROOT / "requirements.txt"))},
)


@dataclass
class Visitor:
    """One client, which asks until the time is up; `ends` counts how its requests ended."""

    url: str
    pool: list[Case]
    rng: random.Random
    ends: Counter[str]

    def visit(self, end: float) -> Counter[str]:
        """Ask at random: half to the end, a third stopped or dropped midway, the rest broken."""
        client = Client(self.url, verbose=False)
        while time.monotonic() < end:
            case, kind = self.rng.choice(self.pool), self.rng.random()
            try:
                if kind < 1 / 6:
                    how = self.drop(case)
                elif kind < 1 / 3:
                    how = self.stop(client, case)
                elif kind < 1 / 2:
                    how = self.broken(client, case)
                else:
                    how = self.answer(client, case)
            except QueueError:
                how = "busy"
                time.sleep(1)
            except Late:
                how = "hung"
            except Exception as error:  # whatever it is, it is counted, and the visit goes on
                say(f"lost: {error!r}")
                how = "lost"
            self.ends[how] += 1
        client.close()
        return self.ends

    def answer(self, client: Client, case: Case) -> str:
        """Wait for the whole answer."""
        *texts, details = client.submit(**call(case), api_name="/compare").result(timeout=PATIENCE)
        if (*texts, details["done"], details["alpha"]) == (*case.texts, True, case.settings["alpha"]):
            return "answered"
        say(f"mismatch: {case} got {texts}")
        return "mismatch"

    def stop(self, client: Client, case: Case) -> str:
        """Cancel at a random moment, waiting in the queue or streaming."""
        job = client.submit(**{**call(case), "max_new_tokens": 200}, api_name="/compare")
        time.sleep(self.rng.random() * 3)
        job.cancel()
        return "stopped"

    def drop(self, case: Case) -> str:
        """Break the connection without a word."""
        url = f"{self.url}/gradio_api/call/v2/compare"
        asked = {name: case.settings[name] for name in ("prompt", "alpha", "method")}
        response = httpx.post(url, json={**asked, "max_new_tokens": 200}, timeout=PATIENCE)
        if response.status_code == 503:
            raise QueueError(response.text)
        place = f"{url}/{response.json()['event_id']}"
        with suppress(httpx.TimeoutException), httpx.stream("GET", place, timeout=self.rng.random() * 3 + 0.1) as lines:
            next(lines.iter_lines(), None)
        return "dropped"

    def broken(self, client: Client, case: Case) -> str:
        """Ask for what can't be had; one sentence must come back."""
        job = client.submit(**{**call(case), **self.rng.choice(BROKEN)}, api_name="/compare")
        try:
            job.result(timeout=PATIENCE)
        except AppError as error:
            return "rejected" if str(error).endswith(".") and "\n" not in str(error) else "lost"
        return "not rejected"


def call(case: Case) -> dict[str, Any]:
    """Return a request as the client takes it."""
    return {"image": case.image and handle_file(str(PICTURES / case.image)), **case.settings}


@contextmanager
def served(options: list[str]) -> Iterator[str]:
    """Serve the page from another process, on this machine only, by these options of app.py."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, str(ROOT / "app.py"), *options, "--host", "127.0.0.1", "--port", str(port)]
        app = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=ROOT, env={**os.environ, "GRADIO_ANALYTICS_ENABLED": "0"}
        )
        try:
            end = time.monotonic() + 300
            while True:
                with suppress(httpx.HTTPError):
                    health(url)
                    break
                if app.poll() is not None or time.monotonic() > end:
                    raise SystemExit("The page did not start.")
                time.sleep(0.5)
            yield url
        finally:
            app.terminate()
            app.wait()


def health(url: str) -> dict[str, Any]:
    """What the page says of itself."""
    return httpx.get(f"{url}/health", timeout=60).raise_for_status().json()


def idle(url: str) -> dict[str, Any]:
    """Its health once nobody is served or waits any more."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        now = health(url)
        if not now["working"] and not now["queue"]["waiting"] and not now["queue"]["running"]:
            break
        time.sleep(0.5)
    time.sleep(2)
    return health(url)


def crowd(url: str, pool: list[Case], clients: int, seconds: float, seed: int) -> Counter[str]:
    """Let many visitors ask for so long, and count how their requests ended."""
    end = time.monotonic() + seconds
    visitors = [Visitor(url, pool, random.Random(1000 * seed + k), Counter()) for k in range(clients)]
    with ThreadPoolExecutor(clients) as threads:
        return sum(threads.map(lambda visitor: visitor.visit(end), visitors), Counter())


def fill_sessions(url: str) -> None:
    """Open as many sessions as the page keeps, each by a request that ends at once, so that none adds to it later."""
    from cmrm.server.launch import SESSIONS

    with httpx.Client(base_url=url, timeout=PATIENCE) as client:
        for _ in range(SESSIONS):
            place = "/gradio_api/call/v2/inspect"
            asked = client.post(place, json={"file": None}).raise_for_status().json()
            client.get(f"{place}/{asked['event_id']}").raise_for_status()


def main(
    minutes: Annotated[float, typer.Option(help="How long, a fifth of it to warm up, but not under 40 s.")] = 10,
    clients: Annotated[int, typer.Option(help="How many at once.")] = 32,
    model: Annotated[str, typer.Option(help="A model as app.py takes it.")] = "pocket",
    engine: Annotated[str, typer.Option(help="local, or vllm: a server that has the model.")] = "local",
    engine_url: Annotated[str, typer.Option(help="Where the server is.")] = "http://127.0.0.1:8000",
) -> None:
    """Serve the page, let a crowd in, and end with status 1 if anything did not hold."""
    say("answering the pool alone ...")
    options = ["--model", model, "--engine", engine, "--engine-url", engine_url]
    pool = cases(options)
    with served(options) as url:
        say("warming up ...")
        fill_sessions(url)
        ends = crowd(url, pool, clients, max(12 * minutes, 40), 1)
        warm = idle(url)
        say("the crowd ...")
        ends += crowd(url, pool, clients, 48 * minutes, 2)
        after = idle(url)
    rows = [(name, ends[name], "0" if name in MUST_BE_NONE else "") for name in sorted({*ends, *MUST_BE_NONE})]
    growth = after["memory_mb"] / warm["memory_mb"] - 1
    rows += [
        ("hooks left behind", after["hooks"] - after["hooks_at_start"], "0"),
        ("requests left in the queue", after["queue"]["waiting"] + after["queue"]["running"], "0"),
        ("requests left in the server", sum(after["engine"][name] or 0 for name in ("running", "waiting")), "0"),
        ("threads, warm", warm["threads"], ""),
        ("threads, end", after["threads"], f"<= {warm['threads'] + 2}"),
        ("memory, warm, MB", warm["memory_mb"], ""),
        ("memory, end, MB", after["memory_mb"], "within 5%"),
    ]
    print(f"{clients} clients, {minutes:g} minutes\n\n| what | number | must |\n|---|---|---|")
    print(*(f"| {name} | {value} | {must} |" for name, value, must in rows), sep="\n")
    broken = [name for name, value, must in rows if must == "0" and value]
    if broken or not ends["answered"] or growth > 0.05 or after["threads"] > warm["threads"] + 2:
        say(f"It did not hold: {', '.join(broken) or 'see the table'}.")
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
