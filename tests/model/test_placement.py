"""Models that are split by accelerate answer as whole ones, and keep accelerate's hooks."""

from collections import Counter

import pytest
import tiny
import torch
from accelerate import cpu_offload, dispatch_model

from cmrm import CmrmError, LocalEngine, Vlm, compare, extract_offsets, steer
from cmrm.model import placement
from cmrm.settings import parse_device_map

REST = ("vision_tower", "multi_modal_projector", "language_model.embed_tokens", "language_model.norm")
LAYERS = {f"model.language_model.layers.{k}": "disk" if k % 2 else "cpu" for k in range(4)}
SPLITS = {
    "every other layer": {"lm_head": "cpu", **{f"model.{name}": "cpu" for name in REST}, **LAYERS},
    "the text decoder": {"lm_head": "cpu", "model.language_model": "disk", **dict.fromkeys(("model.vision_tower",
                         "model.multi_modal_projector"), "cpu")},
    "all but the decoder": {"lm_head": "disk", "model.language_model": "cpu", **dict.fromkeys(("model.vision_tower",
                            "model.multi_modal_projector"), "disk")},
    "everything": {"": "disk"},
}  # fmt: skip


def answers(vlm: Vlm):
    """Offsets, the token ids of an unsteered and two steered answers, and the logits while steering."""
    offsets = extract_offsets(LocalEngine(vlm), ["a cat", "two dogs", "bake bread"])
    *_, step = compare(vlm, tiny.PICTURE, "What?", offsets, (0.0, 1.5), max_new_tokens=8, steps="all", fluency=True)
    inputs = {key: torch.cat([value] * 2) for key, value in vlm.encode("What?", tiny.PICTURE).items()}
    with torch.no_grad(), steer(vlm, offsets, (0.0, 1.0), positions="all"):
        return offsets.values, [(row.ids, row.fluency) for row in step.rows], vlm.model(**inputs).logits


@pytest.fixture(scope="module")
def whole(checkpoint):
    vlm = Vlm.load(checkpoint, "none")
    return vlm, *answers(vlm)


def hooks(vlm: Vlm):
    """All that hangs on the modules: forward hooks, and what accelerate wraps `forward` in."""
    return [
        (dict(module._forward_hooks), dict(module._forward_pre_hooks), vars(module).get("forward"),
         getattr(module, "_hf_hook", None))
        for module in vlm.model.modules()
    ]  # fmt: skip


@pytest.mark.parametrize("split", SPLITS)
def test_an_offloaded_model_answers_as_the_whole_one(checkpoint, whole, split):
    plain, values, rows, logits = whole
    vlm = Vlm.load(checkpoint, "none", SPLITS[split])
    assert "meta" in {parameter.device.type for parameter in vlm.model.parameters()}
    assert vlm.device == torch.device("cpu")
    assert vlm.free_memory > 0
    assert vlm.identity == plain.identity
    before = hooks(vlm)
    assert any(hook is not None for *_, hook in before)
    split_values, split_rows, split_logits = answers(vlm)
    assert (split_values == values).all()
    assert split_rows == rows
    assert torch.equal(split_logits, logits)
    assert hooks(vlm) == before
    assert vlm.network.hook_count == plain.network.hook_count


def test_models_that_a_user_offloads_are_steered_too(tmp_path):
    expected = answers(tiny.vlm())
    dispatched = tiny.llava().eval()
    dispatch_model(dispatched, SPLITS["every other layer"] | {"model.language_model.rotary_emb": "cpu"},
                   offload_dir=tmp_path)  # fmt: skip
    offloaded = tiny.llava().eval()
    cpu_offload(offloaded, execution_device="cpu")
    for model in (dispatched, offloaded):
        vlm = Vlm(model, tiny.processor(), name="tiny")
        assert vlm.device == torch.device("cpu")
        before = hooks(vlm)
        values, rows, logits = answers(vlm)
        assert (values == expected[0]).all()
        assert rows == expected[1]
        assert torch.equal(logits, expected[2])
        assert hooks(vlm) == before


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8"])
def test_a_quantized_model_that_would_be_offloaded_is_refused(checkpoint, quantization):
    for split in ("every other layer", "everything"):
        with pytest.raises(CmrmError, match="bitsandbytes can't offload quantized layers"):
            Vlm.load(checkpoint, quantization, SPLITS[split])


def test_a_quantized_model_on_the_cpu_alone_is_not_offloaded(checkpoint):
    vlm = Vlm.load(checkpoint, "nf4", {"model": "cpu", "lm_head": "cpu"})
    assert vlm.identity == Vlm.load(checkpoint, "nf4", "auto").identity
    assert vlm.device == torch.device("cpu")


@pytest.mark.parametrize("device_map", ["gpu", "cuda:7", "meta", {"": 7}, {"model": "disc"}, {"model": None}])
def test_a_device_that_is_not_there_is_one_sentence(checkpoint, device_map):
    with pytest.raises(CmrmError, match="which this machine does not have"):
        Vlm.load(checkpoint, "none", device_map)


def test_the_default_is_the_gpu_where_there_is_one(monkeypatch):
    assert placement.checked_device_map(None) == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert placement.checked_device_map(None) == "auto"
    for device_map in ("cuda", "cuda:1", "balanced", {"model": 1, "lm_head": "cpu"}):
        assert placement.checked_device_map(device_map) == device_map
    with pytest.raises(CmrmError, match="'cuda:2'"):
        placement.checked_device_map("cuda:2")


def test_free_memory_goes_by_the_device_with_the_least_for_its_layers(vlm, monkeypatch):
    """Three of four layers on a device with 300 free bytes leave 400 for whole rows, however free the other is."""
    devices = {layer: torch.device("cuda", int(k == 3)) for k, layer in enumerate(vlm.layers)}
    assert Counter(devices.values())[torch.device("cuda", 0)] == 3
    monkeypatch.setattr(placement, "device_of", devices.__getitem__)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: ([300, 1000][device.index], 2000))
    assert vlm.free_memory == 400


def test_a_device_map_is_a_word_or_json():
    assert parse_device_map("") is None
    assert parse_device_map("cuda:1") == "cuda:1"
    assert parse_device_map('{"model": 0, "lm_head": "cpu"}') == {"model": 0, "lm_head": "cpu"}
    for text in ("{", "{model: 0}", '{"model": [0]}', '{"model": null}'):
        with pytest.raises(CmrmError, match="device_map"):
            parse_device_map(text)
