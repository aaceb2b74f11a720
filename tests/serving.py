"""A served page over a tiny model, shared by the tests of the API and of the browser."""

import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import gradio as gr
import tiny

from cmrm import LocalEngine, Row, Step, Vlm, extract_offsets
from cmrm.judging.phrases import judge_by_phrases
from cmrm.server.health import health
from cmrm.server.launch import launch
from cmrm.steering.recipes import recipes_for
from cmrm.ui import build
from cmrm.workbench import Workbench

ANCHORS = str(Path(__file__).with_name("anchors.jsonl"))  # of two lengths: a byte is a token here
CIRCLE = Path(__file__).parent.parent / "assets" / "examples" / "circle.png"


@dataclass
class Served:
    """`passes` counts forward passes, so that a test sees whether the model is at work."""

    url: str
    vlm: Vlm
    blocks: gr.Blocks
    pace: float = 0.0
    passes: int = 0

    @property
    def hooks(self) -> int:
        """How many forward hooks are on the model."""
        return self.vlm.network.hook_count

    @contextmanager
    def slowly(self) -> Iterator[None]:
        """Let a run of hundreds of tokens take most of a minute: who acts during it can't be too late."""
        before, self.pace = self.pace, 0.1
        try:
            yield
        finally:
            self.pace = before

    def idle(self, quiet: float = 0.6, patience: float = 30.0) -> bool:
        """Whether the model comes to rest."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            before = self.passes
            time.sleep(quiet)
            if self.passes == before:
                return True
        return False


@dataclass(frozen=True)
class Scripted(Workbench):
    """A workbench whose answers are the given texts, word by word; who holds the model's lock holds the verdicts."""

    texts: tuple[str, str] = ("", "")

    def compare(self, image, prompt, settings=None, offsets=None) -> Iterator[Step]:
        words = [text.split(" ") for text in self.texts]
        rows = (Row(0.0), Row(1.0))
        for count in range(1, max(map(len, words)) + 1):
            time.sleep(0.1)
            rows = tuple(
                replace(row, text=" ".join(said[:count]), tokens=min(count, len(said)), seconds=0.1 * count)
                for row, said in zip(rows, words, strict=True)
            )
            yield Step(rows)
        with self.engine.vlm.network.lock:
            pass
        yield Step(tuple(replace(row, ended=True, verdict=judge_by_phrases(row.text)) for row in rows), done=True)


def workbench(name: str = "tiny", texts: tuple[str, str] | None = None) -> Workbench:
    vlm = Vlm(tiny.llava(), tiny.processor(), name=name)
    offsets = extract_offsets(LocalEngine(vlm), ["a cat", "two dogs", "bake bread"], estimator="mean")
    recipes = {name: replace(recipe, anchors=ANCHORS) for name, recipe in recipes_for("*").items()}
    parts = (LocalEngine(vlm), offsets, "anchors", recipes)
    return Scripted(*parts, texts=texts) if texts else Workbench(*parts)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def serving(bench: Workbench, pace: float = 0.01, mcp: bool = False) -> Iterator[Served]:
    """Serve the page for the length of the block; each forward pass takes at least `pace` seconds."""
    blocks = build(bench)
    # Not the first free port from 7860, which another worker may take at the same moment.
    url = launch(blocks, port=free_port(), block=False, health=health(bench, blocks), mcp=mcp)
    served = Served(url, bench.engine.vlm, blocks, pace)

    def slow(*_: object) -> None:
        served.passes += 1
        time.sleep(served.pace)

    handle = bench.engine.vlm.model.register_forward_pre_hook(slow)
    try:
        yield served
    finally:
        handle.remove()
        blocks.close(verbose=False)


def answered(url: str, patience: float = 150.0) -> bytes:
    """What a server says that may still be starting."""
    end = time.monotonic() + patience
    while True:
        try:
            return urllib.request.urlopen(url).read()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.3)
