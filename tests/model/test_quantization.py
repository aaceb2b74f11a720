"""Every quantization through bitsandbytes on this CPU: what is quantized, what is not, and what the rows see."""

import json

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from cmrm import CmrmError, LocalEngine, Offsets, Vlm, compare, extract_offsets, steer
from cmrm.model.quantization import compute_dtype
from cmrm.settings import ModelChoice
from cmrm.workbench import Workbench

KINDS = {"nf4": "Linear4bit", "fp4": "Linear4bit", "int8": "Linear8bitLt", "none": "Linear"}
QUANTIZED = ["nf4", "fp4", "int8"]


def batch(vlm: Vlm, rows: int) -> dict[str, torch.Tensor]:
    return {key: torch.cat([value] * rows) for key, value in vlm.encode("What?", tiny.PICTURE).items()}


@torch.no_grad()
def logits(vlm: Vlm, rows: int = 2) -> torch.Tensor:
    return vlm.model(**batch(vlm, rows)).logits


@pytest.mark.parametrize("quantization", KINDS)
def test_only_the_text_decoder_is_quantized(checkpoint, quantization):
    vlm = Vlm.load(checkpoint, quantization)
    assert vlm.identity.quantization == quantization
    kinds = {name: type(module).__name__ for name, module in vlm.model.named_modules()}
    for path in ("self_attn.q_proj", "mlp.up_proj"):
        assert kinds[f"model.language_model.layers.0.{path}"] == KINDS[quantization]
    for path in ("model.vision_tower.encoder.layers.0.mlp.fc1", "model.multi_modal_projector.linear_1", "lm_head"):
        assert kinds[path] == "Linear"
    assert vlm.notes == ()


@pytest.mark.parametrize(("quantization", "share"), [("nf4", 0.15), ("fp4", 0.2), ("int8", 0.02)])
def test_a_quantized_layer_computes_nearly_what_it_did(checkpoint, quantization, share):
    plain, quantized = (Vlm.load(checkpoint, one).layers[0].mlp.down_proj for one in ("none", quantization))
    given = torch.randn(3, 5, plain.in_features, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        expected = plain(given.to(plain.weight.dtype)).float()  # float32 where the CPU has no bfloat16
        assert 0 < ((quantized(given).float() - expected).norm() / expected.norm()).item() < share


@pytest.mark.parametrize("quantization", QUANTIZED)
def test_an_outlier_in_row_1_changes_no_other_row(checkpoint, quantization):
    vlm = Vlm.load(checkpoint, quantization)
    offsets = extract_offsets(LocalEngine(vlm), ["a cat", "two dogs"], estimator="mean")
    huge = Offsets(offsets.values * 1e4, fits=offsets.fits)
    before = logits(vlm, 3)
    with steer(vlm, huge, (0.0, 2.0, 0.0)):
        after = logits(vlm, 3)
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[2], before[2])
    assert not torch.equal(after[1], before[1])
    steps = [list(compare(vlm, tiny.PICTURE, "What?", one, (0.0, 2.0), max_new_tokens=6)) for one in (offsets, huge)]
    assert steps[0][-1].rows[0].ids == steps[1][-1].rows[0].ids == steps[1][-1].rows[1].ids


@pytest.mark.parametrize("quantization", QUANTIZED)
def test_an_already_quantized_checkpoint_loads_as_it_is(checkpoint, tmp_path, quantization):
    saved = Vlm.load(checkpoint, quantization)  # not run yet: a 4-bit model that has run can't be saved
    saved.model.save_pretrained(tmp_path)
    saved.processor.save_pretrained(tmp_path)
    loaded = Vlm.load(tmp_path)
    assert loaded.identity.quantization == quantization
    assert torch.equal(logits(loaded), logits(saved))
    for other in ("nf4", "fp4", "int8", "none"):
        with pytest.raises(CmrmError, match="already quantized"):
            Vlm.load(tmp_path, other)


def test_a_checkpoint_saved_with_a_threshold_for_outliers_runs_without(checkpoint, tmp_path):
    """At bitsandbytes' default of 6, an outlier in row 1 would change the columns that row 0 is rounded in."""
    plain = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["vision_tower", "multi_modal_projector"])
    assert plain.llm_int8_threshold == 6
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, quantization_config=plain, device_map="cpu")
    model.save_pretrained(tmp_path)
    tiny.processor().save_pretrained(tmp_path)
    vlm = Vlm.load(tmp_path)
    offsets = extract_offsets(LocalEngine(vlm), ["a cat"], estimator="mean")
    before = logits(vlm)
    with steer(vlm, Offsets(offsets.values * 1e4, fits=offsets.fits), (0.0, 2.0)):
        assert torch.equal(logits(vlm)[0], before[0])


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> str:
    """A text decoder of width 96, which is no multiple of 64."""
    folder = tmp_path_factory.mktemp("odd")
    tiny.llava(hidden=96).save_pretrained(folder)
    tiny.processor().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("quantization", ["nf4", "fp4"])
def test_one_line_says_which_layers_stay_unquantized_for_their_shapes(odd, quantization):
    vlm = Vlm.load(odd, quantization)
    plain = [module for layer in vlm.layers for module in layer.modules() if type(module) is torch.nn.Linear]
    assert len(plain) == 4 * 6
    assert len(vlm.notes) == 1
    assert vlm.notes[0].startswith("24 of 28 linear layers of the text decoder stay unquantized, because")
    assert list(compare(vlm, tiny.PICTURE, "What?", None, (), max_new_tokens=2))[-1].done


@pytest.mark.parametrize("quantization", ["int8", "none"])
def test_int8_takes_any_shape(odd, quantization):
    vlm = Vlm.load(odd, quantization)
    assert vlm.notes == ()
    assert {type(vlm.layers[0].mlp.up_proj).__name__} == {KINDS[quantization]}
    assert list(compare(vlm, tiny.PICTURE, "What?", None, (), max_new_tokens=2))[-1].done


def test_the_line_reaches_the_workbench(odd, tmp_path):
    offsets = tmp_path / "offsets.safetensors"
    extract_offsets(LocalEngine(Vlm.load(odd)), ["a cat"]).save(offsets)
    assert "stay unquantized" in Workbench.open(ModelChoice(odd), offsets=offsets).notes[0]


def test_a_4_bit_checkpoint_that_this_cpu_cannot_compute_is_refused(odd, tmp_path):
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModelForImageTextToText.from_pretrained(odd, quantization_config=settings, device_map="cpu")
    model.save_pretrained(tmp_path)
    tiny.processor().save_pretrained(tmp_path)
    with pytest.raises(CmrmError, match="shapes that bitsandbytes can't compute on a CPU"):
        Vlm.load(tmp_path)


def test_a_double_quantized_checkpoint_loads(checkpoint, tmp_path):
    skip = ["vision_tower", "multi_modal_projector", "lm_head"]
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True, llm_int8_skip_modules=skip)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, quantization_config=settings, device_map="cpu")
    model.save_pretrained(tmp_path)
    tiny.processor().save_pretrained(tmp_path)
    vlm = Vlm.load(tmp_path)
    assert vlm.identity.quantization == "fp4"  # bitsandbytes' own default
    assert torch.isfinite(logits(vlm)).all()


def test_a_damaged_scale_of_a_quantized_checkpoint_is_noticed(checkpoint, tmp_path):
    Vlm.load(checkpoint, "nf4").model.save_pretrained(tmp_path)
    tiny.processor().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "quant_state" not in k}, tmp_path / "model.safetensors")
    with pytest.raises(CmrmError):
        Vlm.load(tmp_path)


@pytest.mark.parametrize(
    ("cuda", "bf16", "device_map", "expected"),
    [
        (True, True, "auto", torch.bfloat16),  # an A100
        (True, False, "auto", torch.float16),  # a T4, which only emulates bfloat16
        (True, False, {"": 0}, torch.float16),
        (True, False, {"model": "cuda:0", "lm_head": "cpu"}, torch.float16),
        (False, True, "cpu", torch.bfloat16),
        (False, False, "cpu", torch.float32),
        (True, False, "cpu", torch.float32),  # kept off the GPU that is there
    ],
)
def test_the_compute_dtype_follows_the_hardware(monkeypatch, cuda, bf16, device_map, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 or including_emulation)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: bf16)
    assert compute_dtype(device_map) is expected


def test_the_settings_of_a_quantized_checkpoint_stay_in_its_folder(checkpoint, tmp_path):
    Vlm.load(checkpoint, "int8").model.save_pretrained(tmp_path)
    tiny.processor().save_pretrained(tmp_path)
    stored = (tmp_path / "config.json").read_text()
    Vlm.load(tmp_path)
    assert (tmp_path / "config.json").read_text() == stored
    assert json.loads(stored)["quantization_config"]["quant_method"] == "bitsandbytes"
