"""The offsets file: it says what it fits, and a bad one is refused in one sentence."""

import dataclasses
import hashlib
import json
import os
from datetime import datetime
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file

from cmrm import CmrmError, LocalEngine, Offsets, Vlm, extract_offsets
from cmrm.files import ASSETS


def test_what_was_saved_is_what_is_loaded(offsets, tmp_path):
    path = tmp_path / "new" / "offsets.safetensors"
    offsets.save(path)
    loaded = Offsets.load(path)
    assert np.array_equal(loaded.values, offsets.values)
    assert (loaded.fits, loaded.origin) == (offsets.fits, offsets.origin)
    assert os.listdir(path.parent) == [path.name]


def test_check_warns_of_revision_and_quantization_and_refuses_other_shapes(offsets, vlm):
    assert offsets.check(vlm.identity) == []
    fits = dataclasses.replace(offsets.fits, revision="r2", quantization="nf4")
    warned = Offsets(offsets.values, fits=fits).check(vlm.identity)
    assert len(warned) == 2
    assert "revision 'r2'" in warned[0]
    assert "quantization 'nf4'" in warned[1]
    for change in ({"architecture": "Other/llama"}, {"hidden": 32}, {"layers": 3}):
        fits = dataclasses.replace(offsets.fits, **change)
        with pytest.raises(CmrmError, match="compute offsets for this model"):
            Offsets(np.zeros((fits.layers, fits.hidden), np.float32), fits=fits).check(vlm.identity)


def test_damaged_and_foreign_files_are_refused(offsets, tmp_path):
    good = tmp_path / "good.safetensors"
    offsets.save(good)
    data = good.read_bytes()
    cases = {
        "truncated": data[:-10],
        "header only": data[:40],
        "empty": b"",
        "text": b"not offsets",
        "huge header": (2**40).to_bytes(8, "little") + data[8:],
    }
    for name, content in cases.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(CmrmError, match="no whole CMRM offsets file"):
            Offsets.load(path)
    with pytest.raises(CmrmError, match="There is no offsets file"):
        Offsets.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("values", "change"),
    [
        (torch.full((4, 64), float("nan")), {}),
        (torch.full((4, 64), float("inf")), {}),
        (torch.zeros(3, 64), {}),
        (torch.zeros(4, 64, dtype=torch.float16), {}),
        (torch.zeros(4, 64), {"format": 99}),
        (torch.zeros(4, 64), {"fits": {}}),
        (torch.zeros(4, 64), {"fits": None}),
        (torch.zeros(4, 64), {"origin": {"surprise": 1}}),
        (torch.zeros(4, 64), {"origin": {"anchors": True}}),
        (torch.zeros(4, 64), {"origin": {"versions": ["torch"]}}),
        (torch.ones(4, 64), {"format": 2}),
        (torch.ones(4, 64), {"format": 2, "norms": [8.0] * 3}),
        (torch.ones(4, 64), {"format": 2, "norms": [8.0] * 3 + [8.1]}),
        (torch.ones(4, 64), {"format": 2, "norms": [float("nan")] * 4}),
        (torch.ones(4, 64), {"format": 2, "norms": "8888"}),
        (torch.zeros(4, 64, dtype=torch.bfloat16), {}),
    ],
)
def test_headers_and_values_that_lie_are_refused(offsets, tmp_path, values, change):
    assert tiny.vlm().identity == offsets.fits  # so nothing but the change is wrong
    header = {"format": 1, "fits": dataclasses.asdict(offsets.fits), "origin": {}, **change}
    path = tmp_path / "lying.safetensors"
    save_file({"offsets": values}, path, {"cmrm": json.dumps(header)})
    with pytest.raises(CmrmError) as caught:
        Offsets.load(path)
    assert "\n" not in str(caught.value)


def raw(header: object, data: bytes) -> bytes:
    """A safetensors file laid out by hand, so that its header can lie."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "tensor",
    [
        {"dtype": "F32", "shape": [40_000, 64_000], "data_offsets": [0, 10_240_000_000]},  # 10 GB
        {"dtype": "F32", "shape": [40_000, 64_000], "data_offsets": [0, 1024]},
        {"dtype": "F32", "shape": [2**62, 64], "data_offsets": [0, 1024]},
        {"dtype": "F32", "shape": [4, -64], "data_offsets": [0, 1024]},
        {"dtype": "F99", "shape": [4, 64], "data_offsets": [0, 1024]},
        {"dtype": "F32", "shape": [4, 64], "data_offsets": [-1024, 0]},
    ],
)
def test_a_tensor_that_is_not_in_the_file_is_refused_unread(offsets, tmp_path, tensor):
    inner = {"format": 1, "fits": dataclasses.asdict(offsets.fits), "origin": {}}
    good = {"dtype": "F32", "shape": [4, 64], "data_offsets": [0, 1024]}
    path = tmp_path / "by-hand.safetensors"
    path.write_bytes(raw({"__metadata__": {"cmrm": json.dumps(inner)}, "offsets": good}, bytes(1024)))
    assert not Offsets.load(path).values.any()
    path.write_bytes(raw({"__metadata__": {"cmrm": json.dumps(inner)}, "offsets": tensor}, bytes(1024)))
    with pytest.raises(CmrmError, match="no whole CMRM offsets file"):
        Offsets.load(path)


@pytest.mark.parametrize("inner", ["", "[" * 100_000, "null", "[]", '{"format": 1e999}', '{"format": 1, "format": 2}'])
def test_a_header_that_is_no_header_is_refused(tmp_path, inner):
    path = tmp_path / "by-hand.safetensors"
    save_file({"offsets": torch.zeros(4, 64)}, path, {"cmrm": inner})
    with pytest.raises(CmrmError):
        Offsets.load(path)


def test_the_header_says_what_the_offsets_are(checkpoint, tmp_path):
    vlm = Vlm.load(checkpoint, "nf4")
    anchors = ["a cat", "two dogs"]
    path = tmp_path / "offsets.safetensors"
    offsets = extract_offsets(LocalEngine(vlm), anchors, estimator="pc1", corruption="noise")
    offsets.save(path)
    header = Offsets.load(path).header()
    assert header["format"] == 2
    assert header["fits"] == dataclasses.asdict(vlm.identity)
    assert header["fits"]["quantization"] == "nf4"
    assert len(header["fits"]["revision"]) == 16
    assert (header["origin"]["estimator"], header["origin"]["corruption"]) == ("pc1", "noise")
    assert header["origin"]["anchors"] == 2
    assert header["origin"]["anchors_sha256"] == hashlib.sha256(b"a cat\0two dogs").hexdigest()
    assert datetime.fromisoformat(header["origin"]["created"]).tzinfo
    assert header["origin"]["versions"]["torch"] == torch.__version__
    assert header["norms"] == pytest.approx(np.linalg.norm(offsets.values, axis=1).tolist(), rel=1e-5)


def test_what_ships_is_readable():
    shipped = Offsets.load(ASSETS / "pocket-offsets.safetensors")
    assert shipped.fits.model == "pocket"
    assert min(shipped.norms) > 0


def hub(cache, offsets, revision: str = "main") -> None:
    """Lay out a cache folder as the hub's client does after a download."""
    commit = hashlib.sha1(revision.encode()).hexdigest()
    repository = cache / "models--someone--offsets"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / revision).write_text(commit)
    offsets.save(repository / "snapshots" / commit / "deep" / "mine.safetensors")


def test_a_file_of_the_hub_is_read_by_its_address(offsets, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    hub(tmp_path, offsets)
    hub(tmp_path, Offsets(offsets.values * 2, fits=offsets.fits), "v2")
    loaded = Offsets.load("hf://someone/offsets/deep/mine.safetensors")
    assert np.array_equal(loaded.values, offsets.values)
    assert loaded.origin == offsets.origin
    assert np.array_equal(Offsets.load("hf://someone/offsets@v2/deep/mine.safetensors").values, offsets.values * 2)
    bad = tmp_path / "models--someone--offsets" / "snapshots" / hashlib.sha1(b"main").hexdigest() / "bad.safetensors"
    bad.write_bytes(b"not offsets")
    with pytest.raises(CmrmError, match=r"offsets/bad\.safetensors' is no whole CMRM offsets file"):
        Offsets.load("hf://someone/offsets/bad.safetensors")


@pytest.mark.parametrize(
    "address",
    [
        "hf://someone/offsets/none.safetensors",
        "hf://someone/offsets@v9/deep/mine.safetensors",
        "hf://nobody/nothing/x.safetensors",
        "hf://someone/offsets",
        "hf://someone",
        "hf://",
        "hf://buckets/someone/offsets/x.safetensors",
        "hf://someone/offsets/../../x.safetensors",
    ],
)
def test_what_the_hub_does_not_give_is_one_sentence(offsets, tmp_path, monkeypatch, address):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    hub(tmp_path, offsets)
    with pytest.raises(CmrmError, match="could not be read from the hub") as caught:
        Offsets.load(address)
    assert "\n" not in str(caught.value)


def test_nothing_is_written_to_the_hub(offsets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("hf://someone/offsets/mine.safetensors", Path("hf://someone/offsets/mine.safetensors")):
        with pytest.raises(CmrmError, match="only read from the hub"):
            offsets.save(path)
    assert not list(tmp_path.iterdir())


def test_a_plain_safetensors_file_is_not_taken_for_offsets(tmp_path):
    save_file({"offsets": torch.zeros(4, 64)}, tmp_path / "plain.safetensors")
    with pytest.raises(CmrmError, match="no whole CMRM offsets"):
        Offsets.load(tmp_path / "plain.safetensors")


def test_a_place_that_cannot_be_written_is_one_sentence(offsets, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CmrmError, match="could not be written"):
        offsets.save(tmp_path / "file" / "offsets.safetensors")


def test_offsets_name_no_place_on_this_machine(checkpoint):
    assert Vlm.load(checkpoint, "none").identity.model == "local/tiny-llava"
    assert tiny.vlm().identity.model == "tiny"
