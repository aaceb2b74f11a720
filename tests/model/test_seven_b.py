"""The 7B script at a small size: its hand-made quantized shards are those that the normal path would make."""

import json
import subprocess
import sys

import pytest
import tiny
import torch
from safetensors import safe_open
from transformers import LlavaForConditionalGeneration

from benchmarks.sharded import GEOMETRIES, build, config_of
from cmrm import Vlm


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seven-b") / "small"
    build(folder, "small")
    return folder


def test_the_shards_load_as_the_checkpoint_quantized_at_load(folder, tmp_path):
    build(tmp_path, "small", quantized=False)
    stored, loaded = Vlm.load(folder), Vlm.load(tmp_path, "nf4")
    assert stored.identity.quantization == loaded.identity.quantization == "nf4"
    assert [type(module) for module in stored.model.modules()] == [type(module) for module in loaded.model.modules()]
    inputs = stored.encode("What is this?", tiny.PICTURE)
    with torch.no_grad():
        logits = loaded.model(**inputs).logits
        assert torch.equal(stored.model(**inputs).logits, logits)
        assert logits.std() > 0.1
        assert not torch.equal(Vlm.load(tmp_path, "none").model(**inputs).logits, logits)


def test_only_the_text_decoder_is_stored_in_4_bits_and_every_shard_is_in_the_index(folder):
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    found, stored = {}, 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_tensor(name)
                found[name] = path.name
                stored += tensor.nbytes
                if name.endswith(".weight"):
                    layer = ".language_model.layers." in name and "norm" not in name
                    assert tensor.dtype == (torch.uint8 if layer else torch.bfloat16), name
    assert found == index["weight_map"]
    assert stored == index["metadata"]["total_size"]
    assert len(set(found.values())) > 5


def test_the_7b_geometry_is_llava_1_5s():
    """Llama-2-7B with 64 more words twice (6,738,939,904), ViT-L/14-336 (303,507,456), a projector of two layers."""
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config_of(GEOMETRIES["7b"], 32000))
    assert sum(weight.numel() for weight in model.parameters()) == 6_738_939_904 + 303_507_456 + 20_979_712
    config = model.config
    assert (config.image_seq_length, config.vision_feature_layer, config.projector_hidden_act) == (576, -2, "gelu")


def test_the_script_builds_uses_and_measures(tmp_path):
    command = [sys.executable, "-m", "benchmarks.seven_b", "--folder", str(tmp_path / "new"), "--size", "small"]
    built = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    figures = json.loads(built.stdout)
    assert figures["build"]["checkpoint GB"] > 0
    assert figures["use"]["quantization"] == "nf4"
    assert figures["use"]["image tokens"] == 16
    for step in ("build", "use"):
        assert 0.1 < figures[step]["peak GB"] < 4
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "| build |" not in again.stdout
    assert "| use | seconds a token of both answers |" in again.stdout
