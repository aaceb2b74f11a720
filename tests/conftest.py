"""Tiny models shared by the tests, and the promise that no test leaves a hook behind."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ["OMP_NUM_THREADS"] = "1"  # two workers share two cores, with all that they start
# A server that ends deletes its uploads, which are named by their content: each worker has a folder of its own.
os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="uploads-")

import pytest
import tiny
import torch

from cmrm import LocalEngine, Offsets, Vlm, extract_offsets
from cmrm.cli import main

torch.set_num_threads(1)  # also as a product shared out to threads may round one row unlike the next

TESTS = Path(__file__).parent
# Tests of the plugin inside vLLM run in its environment, which lacks what this file imports.
collect_ignore = ["vllm"]
# Browsers, servers, processes, the pocket model, and whole sets of checkpoints; all else is fast.
SLOW = {
    "evaluation/test_study.py",
    "model/test_architectures.py",
    "model/test_checkpoints.py",
    "model/test_conformance.py",
    "model/test_seven_b.py",
    "pocket",
    "server",
    "test_cli.py",
    "test_readme.py",
    "ui",
}


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is fast, and begin with what is not, so that no worker has a long file left at the end."""
    for item in items:
        path = item.path.relative_to(TESTS)
        if not SLOW & {path.as_posix(), path.parts[0]}:
            item.add_marker("fast")
    items.sort(key=lambda item: item.get_closest_marker("fast") is not None)


@pytest.fixture
def command_line(monkeypatch, capsys) -> Callable[..., subprocess.CompletedProcess]:
    """Run a command line as a process of its own would, but here, where torch is loaded already."""

    def run(*arguments: object, main: Callable[[], None] = main, **environment: str) -> subprocess.CompletedProcess:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["cmrm", *map(str, arguments)])
            for name, value in environment.items():
                patch.setenv(name, value)
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                main()
        said = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, ended.value.code or 0, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def shared_vlm() -> Vlm:
    return tiny.vlm()


@pytest.fixture
def vlm(shared_vlm: Vlm):
    before = [dict(module._forward_hooks) for module in shared_vlm.model.modules()]
    yield shared_vlm
    assert [dict(module._forward_hooks) for module in shared_vlm.model.modules()] == before


@pytest.fixture(scope="session")
def offsets(shared_vlm: Vlm) -> Offsets:
    anchors = ["a cat", "two dogs", "bake bread", "pick a lock"]
    return extract_offsets(LocalEngine(shared_vlm), anchors, estimator="mean")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> str:
    """A tiny LLaVA saved to a folder, as any model of the hub is."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llava"
    tiny.llava().save_pretrained(folder)
    tiny.processor().save_pretrained(folder)
    return str(folder)
