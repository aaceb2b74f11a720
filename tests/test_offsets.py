"""The offsets file: it says what it fits, and a bad one is refused in one sentence."""

import dataclasses
import json
import os

import pytest
import tiny
import torch
from safetensors.torch import save_file

from cmrm import CmrmError, Offsets


def test_what_was_saved_is_what_is_loaded(offsets, tmp_path):
    path = tmp_path / "new" / "offsets.safetensors"
    offsets.save(path)
    loaded = Offsets.load(path)
    assert torch.equal(loaded.values, offsets.values)
    assert (loaded.fits, loaded.origin) == (offsets.fits, offsets.origin)
    assert os.listdir(path.parent) == [path.name]


def test_check_warns_of_revision_and_quantization_and_refuses_other_shapes(offsets, vlm):
    assert offsets.check(vlm) == []
    fits = dataclasses.replace(offsets.fits, revision="r2", quantization="nf4")
    warned = Offsets(offsets.values, fits).check(vlm)
    assert len(warned) == 2
    assert "revision 'r2'" in warned[0]
    assert "quantization 'nf4'" in warned[1]
    for change in ({"architecture": "Other/llama"}, {"hidden": 32}, {"layers": 3}):
        fits = dataclasses.replace(offsets.fits, **change)
        with pytest.raises(CmrmError, match="compute offsets for this model"):
            Offsets(torch.zeros(fits.layers, fits.hidden), fits).check(vlm)


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
    ],
)
def test_headers_and_values_that_lie_are_refused(offsets, tmp_path, values, change):
    header = {"format": 1, "fits": dataclasses.asdict(offsets.fits), "origin": {}, **change}
    path = tmp_path / "lying.safetensors"
    save_file({"offsets": values}, path, {"cmrm": json.dumps(header)})
    with pytest.raises(CmrmError):
        Offsets.load(path)


def test_a_plain_safetensors_file_is_not_taken_for_offsets(tmp_path):
    save_file({"offsets": torch.zeros(4, 64)}, tmp_path / "plain.safetensors")
    with pytest.raises(CmrmError, match="no whole CMRM offsets"):
        Offsets.load(tmp_path / "plain.safetensors")


def test_a_place_that_cannot_be_written_is_one_sentence(offsets, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CmrmError, match="could not be written"):
        offsets.save(tmp_path / "file" / "offsets.safetensors")


def test_offsets_name_no_place_on_this_machine(checkpoint):
    from cmrm import Vlm

    assert Vlm.load(checkpoint, "none").identity.model == "local/tiny-llava"
    assert tiny.vlm().identity.model == "tiny"
