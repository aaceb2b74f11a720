"""Models that can't be used, in real folders: each is refused with one sentence that says what it is and what to do."""

import json
import shutil

import checkpoints
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, Blip2Config, T5Config
from transformers.models.smolvlm import processing_smolvlm
from transformers.utils.import_utils import BACKENDS_MAPPING
from typer.testing import CliRunner

from cmrm import CmrmError, Vlm
from cmrm.cli import app

FAMILIES = checkpoints.FAMILIES
LLAVA = FAMILIES["llava"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    LLAVA.save(folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    """A whole LLaVA, to be spoiled."""
    return shutil.copytree(whole, tmp_path / "spoiled")


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(source, **options) -> str:
    with pytest.raises(CmrmError) as caught:
        Vlm.load(source, "none", **options)
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(".")
    assert ";" in said  # what it is; what to do
    return said


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (AutoConfig.for_model("llama"), "text-only model"),
        (AutoConfig.for_model("t5"), "encoder-decoder"),
        (AutoConfig.for_model("florence2"), "encoder-decoder"),
        (Blip2Config(text_config=T5Config()), "encoder-decoder"),
        (AutoConfig.for_model("pi0"), "diffusion or action model"),
        (AutoConfig.for_model("diffusion_gemma"), "diffusion or action model"),
        (AutoConfig.for_model("clip"), "no image-text-to-text model"),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_a_model_of_another_kind_is_told_by_its_config(tmp_path, config, says):
    config.save_pretrained(tmp_path)
    assert says in refusal(tmp_path)


def test_a_diffusion_pipeline_is_told_by_its_index(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    assert "diffusion pipeline" in refusal(tmp_path)


@pytest.mark.parametrize(
    "gone",
    [
        ["preprocessor_config.json", "processor_config.json"],
        ["tokenizer.json", "tokenizer_config.json"],
        ["preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"],
    ],
    ids=["images", "tokens", "both"],
)
def test_a_folder_without_a_whole_processor(folder, gone):
    for name in gone:
        (folder / name).unlink()
    assert "no whole processor" in refusal(folder)


def test_no_chat_template_is_refused_unless_a_plain_one_is_asked_for(folder):
    (folder / "chat_template.jinja").unlink()
    assert "--plain-template" in refusal(folder)
    vlm = Vlm.load(folder, "none", plain_template=True)
    assert (
        vlm.tokenizer.decode(vlm.encode("Why?", tiny.PICTURE)["input_ids"][0]) == "<s><image><image><image><image>Why?"
    )


def test_the_plain_template_leaves_a_models_own_alone(whole):
    ids = [Vlm.load(whole, "none", plain_template=plain).encode("Why?", None)["input_ids"] for plain in (True, False)]
    assert torch.equal(*ids)


@pytest.mark.parametrize("template", ["{% for x in %}", "{{ raise_exception('No.') }}", "Hello"])
def test_a_chat_template_that_lays_nothing_out(folder, template):
    (folder / "chat_template.jinja").write_text(template)
    assert "chat template" in refusal(folder)


def test_a_chat_template_without_a_place_for_the_image(folder):
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endfor %}"
    )
    assert "<image>" in refusal(folder)


def test_a_damaged_shard_and_a_missing_one_are_named(folder):
    (folder / "model.safetensors").unlink()
    LLAVA.model(LLAVA.tokenizer()).save_pretrained(folder, max_shard_size="200KB")
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    assert f"{shard.name} is damaged" in refusal(folder)
    shard.unlink()
    assert f"{shard.name} is missing" in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"x" * 5000], ids=["empty", "garbage"])
def test_a_damaged_file_of_weights(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    assert "model.safetensors is damaged" in refusal(folder)


@pytest.mark.parametrize(
    ("part", "count"),
    [
        ("language_model.model.layers.1.mlp.up_proj", 1),
        ("language_model.model.embed_tokens", 1),
        ("language_model.lm_head", 1),
        ("multi_modal_projector", 4),
        ("vision_tower", 39),
    ],
)
def test_weights_that_a_checkpoint_lacks_are_not_filled_with_random_ones(folder, part, count):
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith(part)}
    assert len(weights) - len(kept) == count
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    said = refusal(folder)
    assert f"lacks {count} of its weights" in said
    assert part.removeprefix("language_model.").removeprefix("model.") in said


def test_tied_embeddings_that_a_checkpoint_lacks_are_missing(tmp_path):
    FAMILIES["gemma3"].save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "embed_tokens" not in name}
    assert len(kept) == len(weights) - 1
    assert not any("lm_head" in name for name in weights)
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    assert "language_model.embed_tokens.weight" in refusal(tmp_path)


def test_pickled_weights_are_never_read(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "no safetensors weights" in refusal(folder)


@pytest.mark.parametrize("where", ["config.json", "processor_config.json"])
def test_code_that_comes_with_a_model_is_never_run(folder, where):
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    names = {"AutoConfig": "own.Own", "AutoModelForImageTextToText": "own.Own", "AutoProcessor": "own.Own"}
    edit(folder / where, model_type="own", processor_class="OwnProcessor", auto_map=names)
    assert "remote code" in refusal(folder)
    assert not (folder / "ran").exists()


def test_a_type_that_transformers_does_not_know(folder):
    edit(folder / "config.json", model_type="own")
    assert "not known to the installed transformers" in refusal(folder)


def test_a_missing_package_is_named(folder, monkeypatch, tmp_path):
    edit(folder / "config.json", vision_config={"model_type": "timm_wrapper", "architecture": "resnet18"})
    monkeypatch.setitem(BACKENDS_MAPPING, "timm", (lambda: False, BACKENDS_MAPPING["timm"][1]))
    assert "pip install timm" in refusal(folder)
    FAMILIES["smolvlm"].save(tmp_path / "smolvlm")
    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    assert "pip install num2words" in refusal(tmp_path / "smolvlm")


def test_the_command_line_takes_a_plain_template(folder, tmp_path):
    (folder / "chat_template.jinja").unlink()
    (tmp_path / "anchors.txt").write_text("a cat\n")
    command = ["extract", "--model", str(folder), "--anchors", str(tmp_path / "anchors.txt"), "--out"]
    out = tmp_path / "offsets.safetensors"
    refused = CliRunner().invoke(app, [*command, str(out)])
    assert isinstance(refused.exception, CmrmError)
    for options, variables in ((["--plain-template"], {}), ([], {"CMRM_PLAIN_TEMPLATE": "1"})):
        assert CliRunner().invoke(app, [*command, str(out), *options], env=variables).exit_code == 0
        assert out.is_file()
        out.unlink()


def test_layers_whose_output_is_no_state_a_row_and_position():
    model = tiny.llava()
    model.model.language_model.layers[1].register_forward_hook(lambda *parts: parts[-1][None])
    model.model.language_model.layers[2].register_forward_pre_hook(lambda module, args: (args[0][0], *args[1:]))
    with pytest.raises(CmrmError, match="not one state of width 64 a row and position"):
        Vlm(model, tiny.processor())
