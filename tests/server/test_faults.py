"""Faults: whatever breaks, and whenever, one caller gets one sentence, and nothing is left of it for the next."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from serving import CIRCLE, answered, free_port, serving, workbench

from cmrm import CmrmError, Offsets, Settings, compare
from cmrm.steering.steer import _Add
from cmrm.ui import Request, answer, explain_answers
from cmrm.workbench import Workbench

APP = Path(__file__).parents[2] / "app.py"


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return workbench()


def ask(bench: Workbench, method: str = "dataset", alpha=1.0) -> tuple:
    settings = Settings(alpha=None if isinstance(alpha, tuple) else alpha, method=method, max_new_tokens=5)
    alphas = alpha if isinstance(alpha, tuple) else None
    *_, step = answer(bench, Request(str(CIRCLE), "What is this?", settings, alphas=alphas))
    return tuple((row.ids, row.text, row.fluency) for row in step.rows)


@contextmanager
def failing(place: object, name: str, at: int, error: BaseException):
    """Let call number `at` of a method raise, and all others do what they do."""
    whole, calls = getattr(place, name), 0

    def call(*args, **options):
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        return whole(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, call)
        yield lambda: calls


# Forward passes of a request: the image and the prompt but its last token (1 and 2), that token (3), the other
# four tokens (4 to 7), and for a sweep the scoring (8 and 9). Sample-level offsets take passes of their own before.
PASSES = {"reading the image": 1, "prefill": 2, "first token": 3, "decoding": 5}
SWEEP, SWEPT = (0.0, 0.5, 1.0), {"fluency, prompt": 8, "fluency, answer": 9}


@pytest.mark.parametrize("error", [ZeroDivisionError("boom"), RuntimeError("mat1 and mat2"), KeyError("x")])
@pytest.mark.parametrize("stage", [*PASSES, *SWEPT])
def test_a_model_that_fails_at_any_pass_leaves_nothing_behind(bench, stage, error):
    alpha = SWEEP if stage in SWEPT else 1.0
    harmless(bench, "forward", {**PASSES, **SWEPT}[stage], error, place=bench.engine.vlm.model, alpha=alpha)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_model_that_fails_while_sample_level_offsets_are_measured(bench, at):
    harmless(bench, "forward", at, ValueError("boom"), place=bench.engine.vlm.model, method="sample")


@pytest.mark.parametrize("at", [1, 3])
def test_a_hook_that_fails(bench, at):
    harmless(bench, "delta", at, ZeroDivisionError("boom"), place=_Add)


@pytest.mark.parametrize(("name", "at"), [("decode", 1), ("decode", 4), ("_encode_plus", 1)])
def test_a_tokenizer_that_fails(bench, name, at):
    harmless(bench, name, at, OverflowError("boom"), place=bench.engine.vlm.tokenizer)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 14 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("stage", [*PASSES, *SWEPT])
def test_running_out_of_memory_says_how_to_ask_for_less(bench, stage, error):
    alpha = SWEEP if stage in SWEPT else 1.0
    at = {**PASSES, **SWEPT}[stage]
    harmless(
        bench, "forward", at, error, place=bench.engine.vlm.model, alpha=alpha, says="ask for fewer alphas or tokens"
    )
    harmless(bench, "forward", 2, error, place=bench.engine.vlm.model, method="sample", says="ran out of memory")


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_running_out_of_memory_while_answers_are_explained_says_so(bench, at):
    expected, hooks = ask(bench), hooked(bench)
    bench.engine.vlm.network.prefixes.clear()
    request = Request(None, "What is this?", Settings(alpha=1.0, max_new_tokens=5))
    with failing(bench.engine.vlm.model, "forward", at, torch.OutOfMemoryError("CUDA out of memory")) as calls:
        with pytest.raises(CmrmError, match="ask for fewer alphas or tokens"):
            list(explain_answers(bench, request, [[40, 41], [40, 42]]))
        assert calls() == at
    assert hooked(bench) == hooks
    assert not bench.engine.vlm.network.lock.locked()
    assert ask(bench) == expected


def harmless(bench, name, at, error, *, place, says="its log has the details", **request) -> None:
    """One fault: one sentence, the same hooks, no lock held, and the next answer is the one from before."""
    expected = ask(bench, **request)
    bench.engine.vlm.network.prefixes.clear()
    hooks = hooked(bench)
    with failing(place, name, at, error) as calls:
        with pytest.raises(CmrmError, match=says) as caught:
            ask(bench, **request)
        assert calls() == at
    assert "\n" not in str(caught.value)
    assert "boom" not in str(caught.value)
    assert hooked(bench) == hooks
    assert not bench.engine.vlm.network.lock.locked()
    assert ask(bench, **request) == expected


def hooked(bench: Workbench) -> list[dict]:
    return [dict(module._forward_hooks) for module in bench.engine.vlm.model.modules()]


def test_memory_is_given_back_after_running_out_of_it(bench):
    ask(bench)
    assert bench.engine.vlm.network.prefixes.nbytes
    with failing(bench.engine.vlm.model, "forward", 1, MemoryError()), pytest.raises(CmrmError):
        ask(bench)
    assert not bench.engine.vlm.network.prefixes.nbytes


def test_a_failure_of_a_programs_own_steering_reaches_it_as_it_is(bench):
    class Mine:
        def delta(self, layer, state):
            raise RuntimeError("my own mistake")

    with pytest.raises(RuntimeError, match="my own mistake"):
        list(compare(bench.engine.vlm, None, "Hello", Mine(), max_new_tokens=2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")
def test_a_page_whose_generator_fails_says_so_and_serves_the_next(bench, monkeypatch):
    with serving(bench, pace=0) as served:
        client = Client(served.url, verbose=False)
        picture = handle_file(str(CIRCLE))
        expected = client.predict(picture, "What is this?", max_new_tokens=4, api_name="/compare")[:2]
        hooks = hooked(bench)
        with monkeypatch.context() as broken:
            broken.setattr("cmrm.ui.endpoints.details", lambda *_: 1 / 0)
            with pytest.raises(AppError, match=r"Something went wrong inside the app.*try again\."):
                client.predict(picture, "What is this?", max_new_tokens=4, api_name="/compare")
        assert hooked(bench) == hooks
        assert client.predict(picture, "What is this?", max_new_tokens=4, api_name="/compare")[:2] == expected
        client.close()


@pytest.mark.parametrize("place", ["os.fsync", "os.replace"])
def test_a_full_disk_leaves_the_old_offsets_whole(offsets, tmp_path, monkeypatch, place):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    kept_whole(offsets, tmp_path, lambda: monkeypatch.setattr(place, full))


def test_a_write_that_ends_halfway_leaves_the_old_offsets_whole(offsets, tmp_path):
    """The system itself refuses bytes beyond the first 500 of a file, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        kept_whole(offsets, tmp_path, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1])))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def kept_whole(offsets, folder, breaking) -> None:
    path = folder / "offsets.safetensors"
    offsets.save(path)
    before = path.read_bytes()
    breaking()
    with pytest.raises(CmrmError, match="could not be written"):
        Offsets(offsets.values * 2, fits=offsets.fits).save(path)
    assert os.listdir(folder) == [path.name]
    assert path.read_bytes() == before


OPENING = """
import sys, time, pathlib
from cmrm import settings, workbench
from cmrm.steering import shelf
from cmrm.steering.anchors import AnchorSet
workbench.load_anchors = lambda name: AnchorSet("few", ("a cat", "two dogs"), ("", ""))
whole = shelf.extract_offsets
def together(*args, **options):
    here = pathlib.Path(sys.argv[2])
    here.with_suffix(f".{sys.argv[3]}").touch()
    end = time.monotonic() + 60
    while len(list(here.parent.glob(here.name + ".*"))) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    return whole(*args, **options)
shelf.extract_offsets = together
bench = workbench.Workbench.open(settings.ModelChoice(sys.argv[1], "none"))
print(bench.offsets.values.astype("float64").sum())
"""


def test_two_processes_may_compute_the_same_offsets_at_once(checkpoint, tmp_path):
    cache = tmp_path / "cache"
    first = opened(checkpoint, tmp_path / "first", cache, ("a", "b"))
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:99])
    second = opened(checkpoint, tmp_path / "second", cache, ("a", "b"))
    assert len({*first, *second}) == 1
    assert Offsets.load(kept).values.astype("float64").sum() == float(first[0])
    assert {path.suffix for path in cache.iterdir()} == {".safetensors", ".damaged"}


def opened(checkpoint, meeting, cache, names) -> list[str]:
    """What processes print that open one checkpoint and start to compute its offsets at the same time."""
    command = [sys.executable, "-c", OPENING, checkpoint, str(meeting)]
    environment = {**os.environ, "CMRM_CACHE": str(cache), "PYTHONPATH": str(APP.parent)}
    pipes = {"stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([*command, name], env=environment, **pipes) for name in names]
    told = [process.communicate(timeout=120)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0] * len(names)
    return told


def test_a_server_that_is_told_to_end_during_a_stream_ends_at_once(checkpoint, offsets, tmp_path):
    offsets.save(tmp_path / "offsets.safetensors")
    port = free_port()
    options = ["--model", checkpoint, "--quantization", "none", "--offsets", str(tmp_path / "offsets.safetensors")]
    command = [sys.executable, str(APP), *options, "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as app:
        try:
            answered(f"http://127.0.0.1:{port}")
            url = f"http://127.0.0.1:{port}/gradio_api/call/v2/compare"
            call = httpx.post(url, json={"prompt": "What is this?", "max_new_tokens": 450}).json()
            with httpx.stream("GET", f"{url}/{call['event_id']}", timeout=20) as stream:
                lines = stream.iter_lines()
                while "generating" not in next(lines):
                    pass
                start = time.monotonic()
                app.send_signal(signal.SIGTERM)
                with pytest.raises(httpx.HTTPError):
                    list(lines)
            app.wait(timeout=20)
        finally:
            app.kill()
        assert time.monotonic() - start < 20
        assert "Traceback" not in app.stderr.read()
    json.loads((Path(checkpoint) / "config.json").read_text())
    assert Offsets.load(tmp_path / "offsets.safetensors").fits == offsets.fits
