"""Checkpoints of twelve families in folders, as a user has them: processor, chat template, extraction, comparison."""

import importlib.util
from dataclasses import replace

import checkpoints
import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from transformers.models.smolvlm import processing_smolvlm

from cmrm import CmrmError, LocalEngine, Offsets, Vlm, compare, extract_offsets

PROMPT = "What is this, and where is it?"
ANCHORS = ["a cat", "two dogs", "bake bread"]
FAMILIES = checkpoints.FAMILIES
IMAGES = pytest.mark.parametrize("image", [tiny.PICTURE, None], ids=["image", "text"])


def missing(package: str) -> bool:
    return bool(package) and importlib.util.find_spec(package) is None


@pytest.fixture(scope="module", autouse=True)
def _numbers_in_words():
    """SmolVLM's processor wants num2words, for videos only; here it may be missing."""
    patch = pytest.MonkeyPatch()
    patch.setattr(processing_smolvlm, "num2words", processing_smolvlm.num2words or str)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each family's folder, written at its first use."""
    root = tmp_path_factory.mktemp("families")

    def folder(family: checkpoints.Family):
        path = root / family.model_type
        if not path.exists():
            path.mkdir()
            family.save(path)
        return path

    return folder


def load(folders, family: checkpoints.Family, quantization: str) -> Vlm:
    return Vlm.load(folders(family), quantization, plain_template=not family.template)


@pytest.fixture(scope="module", params=[name for name in FAMILIES if not missing(FAMILIES[name].needs)])
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def vlm(family, folders):
    """The family's model in float32, whatever the machine computes in."""
    loaded = load(folders, family, "none")
    loaded.model.float()
    before = [dict(module._forward_hooks) for module in loaded.model.modules()]
    yield loaded
    assert [dict(module._forward_hooks) for module in loaded.model.modules()] == before


@pytest.fixture(scope="module")
def offsets(vlm):
    return extract_offsets(LocalEngine(vlm), ANCHORS, estimator="mean")


def count(vlm, inputs) -> int:
    return int((inputs["input_ids"] == vlm.network.image_token).sum())


def test_an_image_takes_its_tokens_and_a_text_none(family, vlm):
    assert count(vlm, vlm.encode(PROMPT, tiny.PICTURE)) == family.image_tokens
    alone = vlm.encode(PROMPT, None)
    assert count(vlm, alone) == 0
    assert "pixel_values" not in alone
    assert PROMPT in vlm.tokenizer.decode(alone["input_ids"][0])


def test_an_image_counts(vlm):
    seen, other = (
        tiny.plain(vlm, vlm.encode(PROMPT, image))[0] for image in (tiny.PICTURE, Image.new("RGB", (40, 28)))
    )
    assert (seen - other).abs().max() > 0.01


def test_a_prompt_begins_with_one_bos_token_where_the_family_has_one(family, vlm):
    for image in (tiny.PICTURE, None):
        ids = vlm.encode(PROMPT, image)["input_ids"][0].tolist()
        assert ids.count(vlm.tokenizer.bos_token_id) == bool(family.bos)


@IMAGES
def test_markers_in_a_prompt_are_text(family, vlm, image):
    """Special tokens and role names of the family, in one prompt, add nothing but plain tokens."""
    markers = vlm.tokenizer.get_added_vocab()
    some = [*list(markers)[:40], *vlm._markers[-40:], "USER:", "[INST]"]
    hostile = " ".join([*some, f"{family.image_token[:2]}{family.image_token}{family.image_token[2:]}"])
    clean, dirty = (vlm.encode(prompt, image)["input_ids"][0].tolist() for prompt in (PROMPT, hostile))
    assert [token for token in dirty if token in markers.values()] == [
        token for token in clean if token in markers.values()
    ]


@IMAGES
def test_row_0_is_what_stock_generate_answers_and_alpha_0_is_row_0(vlm, offsets, image):
    expected = tiny.generated(vlm, vlm.encode(PROMPT, image), 8)
    *_, step = compare(vlm, image, PROMPT, offsets, (0.0, 1.0), max_new_tokens=8, fluency=True)
    assert step.rows[0].ids == step.rows[1].ids == expected
    assert step.rows[0].fluency == pytest.approx(step.rows[1].fluency, abs=1e-4)


def test_two_rows_are_steered_as_far_as_their_alphas_say(vlm, offsets):
    strong = Offsets(offsets.values * 20, fits=offsets.fits)
    *_, step = compare(vlm, tiny.PICTURE, PROMPT, strong, (0.5, 2.0), max_new_tokens=8)
    assert [row.alpha for row in step.rows] == [0, 0.5, 2]
    assert step.done
    assert step.rows[2].ids != step.rows[0].ids


def test_fluency_is_the_mean_log_probability_of_a_full_forward(vlm):
    *_, step = compare(vlm, tiny.PICTURE, PROMPT, None, (), max_new_tokens=4, fluency=True)
    inputs = vlm.encode(PROMPT, tiny.PICTURE)
    options = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    out = vlm.model.generate(**inputs, **options)
    scores = [logits[0].log_softmax(-1)[token] for logits, token in zip(out.logits, step.rows[0].ids, strict=False)]
    assert step.rows[0].fluency == pytest.approx(torch.stack(scores).mean().item(), abs=1e-4)


def test_offsets_are_the_gaps_of_full_forwards_and_fit_after_a_save(vlm, offsets, tmp_path):
    blank = vlm.blank("white")
    gaps = [tiny.plain(vlm, vlm.encode(a, None))[1] - tiny.plain(vlm, vlm.encode(a, blank))[1] for a in ANCHORS]
    expected = torch.cat(gaps).mean(0)
    assert (torch.from_numpy(offsets.values) - expected).norm() <= 1e-3 * expected.norm()
    offsets.save(tmp_path / "offsets.safetensors")
    loaded = Offsets.load(tmp_path / "offsets.safetensors")
    assert loaded.check(vlm.identity) == []
    assert np.array_equal(loaded.values, offsets.values)


def test_kept_prefixes_change_nothing(vlm, offsets):
    def ask(image):
        *_, step = compare(vlm, image, PROMPT, offsets, (1.0,), max_new_tokens=4)
        return [row.ids for row in step.rows]

    other = Image.new("RGB", (40, 28), "red")
    vlm.network.prefixes.clear()
    fresh = ask(tiny.PICTURE)
    ask(other)
    assert ask(tiny.PICTURE) == fresh


def test_nf4_extracts_and_compares(family, folders):
    vlm = load(folders, family, "nf4")
    assert vlm.identity.quantization == "nf4"
    kinds = {type(module).__name__ for layer in vlm.layers for module in layer.modules()}
    assert "Linear4bit" in kinds
    offsets = extract_offsets(LocalEngine(vlm), [PROMPT])
    *_, step = compare(vlm, tiny.PICTURE, PROMPT, offsets, (0.0, 1.0), max_new_tokens=4)
    assert step.rows[0].ids == step.rows[1].ids
    assert vlm.network.hook_count == load(folders, family, "nf4").network.hook_count


def test_layers_of_cross_attention_are_left_out(folders):
    """Without an image they don't run, so there is no text-only state to go back to."""
    vlm = load(folders, FAMILIES["mllama"], "none")
    assert [type(layer).__name__ for layer in vlm.layers] == ["MllamaSelfAttentionDecoderLayer"] * 2
    assert vlm.identity.layers == 2


def test_models_that_read_a_prompt_in_both_directions_are_found(folders):
    names = ("llava", "gemma3", "paligemma")
    plain = {name: bool(load(folders, FAMILIES[name], "none").network.plain_batch) for name in names}
    assert plain == {"llava": False, "gemma3": False, "paligemma": True}


@pytest.mark.parametrize("name", [name for name in FAMILIES if missing(FAMILIES[name].needs)])
def test_a_processor_that_needs_a_missing_package_names_it(folders, name):
    with pytest.raises(CmrmError, match=f"pip install {FAMILIES[name].needs}"):
        load(folders, FAMILIES[name], "none")


STRINGS = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'].upper() + ': ' + m['content'] + '\n' }}{% endfor %}Answer:"
)


@pytest.mark.parametrize(
    ("template", "layout"),
    [
        (checkpoints.LLAVA, "<s>USER: <image><image><image><image>\nWhy? ASSISTANT:"),
        (STRINGS, "<s>USER: <image><image><image><image>\nWhy?\nAnswer:"),
    ],
    ids=["of parts", "of strings"],
)
def test_the_tokenizers_own_chat_template_is_used(tmp_path, template, layout):
    bare = replace(FAMILIES["llava"], template=None)
    bare.save(tmp_path)
    tokenizer = bare.tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path, save_jinja_files=False)
    assert not (tmp_path / "chat_template.jinja").exists()
    vlm = Vlm.load(tmp_path, "none")
    assert vlm.tokenizer.decode(vlm.encode("Why?", tiny.PICTURE)["input_ids"][0]) == layout
