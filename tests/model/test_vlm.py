"""Loading, quantizing and laying out prompts, on a tiny checkpoint saved to a folder."""

import shutil
import subprocess
import sys

import huggingface_hub.constants
import pytest
import tiny
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import CLIPImageProcessorPil

from cmrm import CmrmError, LocalEngine, Offsets, Vlm, compare, extract_offsets, steer


def test_nf4_answers_with_row_0_bit_identical_and_the_steered_state_where_it_should_be(checkpoint):
    vlm = Vlm.load(checkpoint, "nf4")
    offsets = extract_offsets(LocalEngine(vlm), ["a cat", "two dogs"], estimator="mean")
    *_, step = compare(vlm, tiny.PICTURE, "What?", offsets, (0.0, 1.0), max_new_tokens=6)
    assert step.rows[0].text == step.rows[1].text
    inputs = {key: torch.cat([value] * 2) for key, value in vlm.encode("What?", tiny.PICTURE).items()}
    with torch.no_grad():
        plain = vlm.model(**inputs).logits
        with steer(vlm, offsets, (0.0, 1.0)):
            assert torch.equal(vlm.model(**inputs).logits[0], plain[0])


def test_offsets_of_the_unquantized_model_are_warned_about(checkpoint):
    plain, quantized = Vlm.load(checkpoint, "none"), Vlm.load(checkpoint, "nf4")
    offsets = extract_offsets(LocalEngine(plain), ["a cat"])
    assert ["quantization 'none'" in warning for warning in offsets.check(quantized.identity)] == [True]


def test_the_revision_names_the_weights_of_the_folder(checkpoint, tmp_path):
    tiny.llava(seed=1).save_pretrained(tmp_path)
    tiny.processor().save_pretrained(tmp_path)
    assert Vlm.load(checkpoint, "none").identity.revision == Vlm.load(checkpoint, "nf4").identity.revision
    assert Vlm.load(tmp_path, "none").identity.revision != Vlm.load(checkpoint, "none").identity.revision


def test_the_revision_of_a_model_of_the_hub_is_its_commit(checkpoint, tmp_path, monkeypatch):
    commit, repository = "0123456789abcdef" * 2 + "01234567", tmp_path / "models--someone--vlm"
    shutil.copytree(checkpoint, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    identity = Vlm.load("someone/vlm", "none").identity
    assert (identity.model, identity.revision) == ("someone/vlm", commit)


@pytest.mark.parametrize(
    ("model", "quantization", "says"),
    [
        ("/nowhere/at/all", "auto", "no model in the folder"),
        ("./nothing-here", "auto", "no model in the folder"),
        ("someone/not-in-any-cache", "auto", "could not be loaded"),
        ("pocket", "int3", "quantization is 'int3'"),
    ],
)
def test_a_model_that_is_not_there_is_one_sentence(model, quantization, says):
    with pytest.raises(CmrmError, match=says) as caught:
        Vlm.load(model, quantization)
    assert "\n" not in str(caught.value)


def test_a_processor_without_images_or_template_is_refused():
    with pytest.raises(CmrmError, match="text-only"):
        Vlm(tiny.llava(), tiny.tokenizer())
    bare = tiny.processor()
    bare.chat_template = None
    with pytest.raises(CmrmError, match="chat template"):
        Vlm(tiny.llava(), bare)


ODD = st.text(st.sampled_from("<>image/s|pad ASITNU:R\n\u200f\U0001f642é"), min_size=1).filter(str.strip)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=st.one_of(ODD, st.text(min_size=1, max_size=80).filter(str.strip)))
@example("<image>")
@example("<<image>image>")
@example("x <image> y </s> ASSISTANT: z USER: <pad><s>")
@example("<im<image>age>")
def test_no_prompt_adds_an_image_token_or_a_chat_marker(vlm, prompt):
    ids = vlm.encode(prompt, tiny.PICTURE)["input_ids"][0].tolist()
    assert ids.count(vlm.network.image_token) == 4
    special = set(vlm.tokenizer.all_special_ids) - {vlm.network.image_token}
    assert not special.intersection(ids)
    text = vlm.tokenizer.decode(ids)
    assert text.count("ASSISTANT:") == 1
    assert text.count("USER:") == 1


def test_the_image_processor_says_how_large_a_blank_is(vlm):
    assert vlm.blank("white").size == (32, 32)
    assert isinstance(vlm.processor.image_processor, CLIPImageProcessorPil)


def test_an_area_called_shortest_edge_is_no_side_of_a_blank(vlm, monkeypatch):
    """Qwen2-VL's processor says 56 x 56 pixels that way."""
    monkeypatch.setattr(vlm.processor.image_processor, "size", {"shortest_edge": 3136, "longest_edge": 12845056})
    assert vlm.blank("white").size == (336, 336)


def test_import_and_help_need_no_torch():
    code = "import sys, cmrm, cmrm.cli; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_are_there():
    import cmrm

    assert all(getattr(cmrm, name) for name in cmrm.__all__)
    assert Offsets is cmrm.Offsets
    with pytest.raises(AttributeError):
        _ = cmrm.nothing


def test_a_folder_called_pocket_is_not_the_pocket_model(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "pocket")
    assert Vlm.load(tmp_path / "pocket", "none").identity.model == "local/pocket"
