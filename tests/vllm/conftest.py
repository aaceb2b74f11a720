"""One server for the tests of a module, and what the project's own engine said (`reference.py` makes it)."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from cmrm.engines.vllm_plugin.torchvision_ops import declare_in_children

ROOT = Path(__file__).parents[2]
PORT = int(os.environ.get("CMRM_TEST_PORT", "8765"))
OPTIONS = (
    "--model", str(ROOT / "assets" / "pocket"), "--served-model-name", "pocket", "--dtype", "float32",
    "--max-model-len", "512", "--block-size", "32", "--kv-cache-memory-bytes", str(256 << 20),
    "--enable-prompt-tokens-details", "--host", "127.0.0.1", "--port", str(PORT),
)  # fmt: skip
PLUGIN = ("-m", "cmrm.engines.vllm_plugin")


@contextmanager
def serving(*options: str, module: tuple[str, ...] = PLUGIN, **environment: str) -> Iterator[str]:
    """Start a server with options of its own, and stop it and all that it started.

    Raises:
        AssertionError: it does not come up; with the end of what it said.
    """
    env = {**os.environ, "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", **environment}
    env.pop("TRITON_INTERPRET", None)  # of the kernel's test
    declare_in_children(env)
    command = [sys.executable, *module, *OPTIONS, *options]
    url = f"http://127.0.0.1:{PORT}"
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            end = time.monotonic() + 300
            while not answers(url):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise AssertionError(f"the server did not come up; it said: {log.read()[-20_000:]}")
                time.sleep(0.5)
            yield url
        finally:
            stop(process)


def answers(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    return False


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and what it left behind, if anything."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        os.killpg(process.pid, signal.SIGKILL)


class Reference:
    """Rows and arrays that `reference.py` wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = json.loads((folder / "reference.json").read_text())
        self.arrays = dict(np.load(folder / "arrays.npz"))


@pytest.fixture(scope="session")
def reference() -> Reference:
    folder = os.environ.get("CMRM_REFERENCE")
    assert folder, "set CMRM_REFERENCE to the folder that `python tests/vllm/reference.py FOLDER` wrote"
    return Reference(Path(folder))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show how many answers were the same, as a table for docs/serving.md."""
    from checks import table

    for line in table():
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The plain configuration, or the server whose address $CMRM_SERVER is."""
    if running := os.environ.get("CMRM_SERVER"):
        yield running
    else:
        with serving("--enforce-eager", "--max-num-seqs", "128") as url:
            yield url
