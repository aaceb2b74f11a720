"""Tiny models shared by the tests, and the promise that no test leaves a hook behind."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import pytest
import tiny

from cmrm import LocalEngine, Offsets, Vlm, extract_offsets


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
