"""Hostile input: whatever comes, it is answered or refused in one sentence, in bounded time and memory."""

import dataclasses
import io
import json
import random
import resource
import signal
import struct
import time
import zlib
from collections import Counter

import numpy as np
import pytest
import tiny
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cmrm import CmrmError, Offsets, Vlm, compare, steer
from cmrm.images import FORMATS, MAX_PIXELS, open_image
from cmrm.model.prompts import breakable, neutralise

FILES = 4000
SIZE = (24, 17)
SHARED = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def stored(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    """A PNG laid out by hand, so that what it declares is what we say, checksums included."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def whole_files() -> list[bytes]:
    colour = Image.effect_noise(SIZE, 90).convert("RGB")
    deep = Image.fromarray(np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE[::-1]) * 150)
    turned = Image.Exif()
    turned[0x0112] = 8
    modes = [("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    modes += [("TIFF", mode) for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "LAB", "I", "F")]
    modes += [("JPEG", mode) for mode in ("L", "RGB", "CMYK")] + [("BMP", mode) for mode in ("1", "L", "P", "RGB")]
    modes += [("WEBP", "RGB"), ("WEBP", "RGBA"), ("GIF", "P")]
    files = [stored(colour.convert(mode), kind) for kind, mode in modes]
    frames = {"save_all": True, "append_images": [colour.rotate(90), colour.rotate(180)]}
    files += [stored(colour, kind, **frames) for kind in ("GIF", "WEBP", "PNG", "TIFF")]
    files += [stored(deep, kind) for kind in ("PNG", "TIFF")]
    files += [stored(colour, kind, exif=turned) for kind in ("JPEG", "PNG", "WEBP")]
    files += [stored(colour, "TIFF", compression=name) for name in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")]
    return [*files, stored(colour, "JPEG", progressive=True)]


def foreign_files() -> list[bytes]:
    bombs = [png(30_000, 30_000), png(2**31 - 1, 2**31 - 1), png(7000, 7000), png(1, 50_000), png(0, 5), png(5, 0)]
    bombs += [png(7000, 7000, 16, 0), png(60_000, 60_000, 1, 0), struct.pack("<2sIIIIIIHHI", *_bitmap(40_000, 40_000))]
    texts = [
        b"",
        b"\0" * 50,
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><svg>&b;</svg>",
        b"<!doctype html><script>alert(1)</script>",
        b"GIF89a<script>alert(1)</script>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/etc/passwd) (r) file\nshowpage\n",
        b"%PDF-1.4\n",
        b"P6\n9999999 9999999\n255\n",
    ]
    return [*bombs, *texts, *(head + b"<svg/>" for head in (b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0WEBP", b"II*\0", b"BM"))]


def _bitmap(width: int, height: int) -> tuple:
    return (b"BM", 62, 0, 54, 40, width, height, 1, 24, 0)


def damaged(whole: bytes, rng: random.Random) -> bytes:
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(min(64, len(data)))
        match rng.randrange(6):
            case 0:
                del data[max(1, place) :]
            case 1:
                data[place] ^= 1 << rng.randrange(8)
            case 2:
                data[place : place + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", rng.randbytes(4)))
            case 3:
                data[place:place] = rng.randbytes(rng.randrange(1, 40))
            case 4:
                del data[place : place + rng.randrange(1, 40)]
            case _:
                data[place:place] = data[place // 2 : place]
        data = data or bytearray(b"\0")
    return bytes(data)


def files() -> list[bytes]:
    rng = random.Random(20241009)
    whole = whole_files()
    return [*foreign_files(), *whole, *(damaged(rng.choice(whole), rng) for _ in range(FILES))]


def tried(make) -> tuple:
    """What comes of it, or the one sentence that refuses it."""
    try:
        return make(), ""
    except CmrmError as error:
        return None, str(error)


def test_odd_and_damaged_pictures_are_upright_rgb_or_one_sentence(vlm, tmp_path):
    path, ends, slowest = tmp_path / "picture", Counter(), 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number, data in enumerate(files()):
        path.write_bytes(data)
        start = time.process_time()
        image, refusal = tried(lambda: open_image(path))
        ends["refused" if refusal else "opened"] += 1
        assert "\n" not in refusal
        assert str(tmp_path) not in refusal
        if image:
            assert image.mode == "RGB"
            assert 0 < image.width * image.height <= MAX_PIXELS
            if not number % 10:
                assert count(vlm, vlm.encode("What is this?", image)) == 4
        slowest = max(slowest, time.process_time() - start)
    assert min(ends["opened"], ends["refused"]) > 400
    assert slowest < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # KB


def test_every_whole_file_opens_and_no_foreign_one_does(tmp_path):
    path = tmp_path / "picture"
    for data in whole_files():
        path.write_bytes(data)
        assert sorted(open_image(path).size) == sorted(SIZE)
    for data in foreign_files():
        path.write_bytes(data)
        with pytest.raises(CmrmError):
            open_image(path)


def test_formats_that_run_programs_or_read_other_files_are_not_opened(tmp_path):
    Image.init()
    for kind in sorted(set(Image.SAVE) - {*FORMATS, "MPO", "SPIDER"}):
        try:
            data = stored(Image.new("RGB", (9, 9)), kind)
        except Exception:
            continue  # not in every build of Pillow
        path = tmp_path / "picture.png"
        path.write_bytes(data)
        with pytest.raises(CmrmError, match="not a picture"):
            open_image(path)


@pytest.mark.parametrize("size", [(1, 101), (5000, 3)])
def test_ribbons_are_refused_before_a_processor_scales_them(size):
    with pytest.raises(CmrmError, match="crop it"):
        open_image(Image.new("RGB", size))
    assert open_image(Image.new("RGB", (100, 1))).size == (100, 1)


@pytest.fixture(scope="module")
def pocket() -> Vlm:
    return Vlm.load("pocket")


def count(vlm: Vlm, inputs) -> int:
    return int((inputs["input_ids"] == vlm.network.image_token).sum())


def markers(vlm: Vlm) -> list[str]:
    return [*vlm.tokenizer.get_added_vocab(), *vlm.tokenizer.all_special_tokens, *vlm._markers]


def odd_prompts(vlm: Vlm) -> list[str]:
    rng = random.Random(7)
    words = [
        *markers(vlm),
        "\0",
        "\u202e",
        "\u200f",
        "\u2066",
        "\ufeff",
        "\x1b[31m",
        "😀",
        "👩‍👩‍👧",
        "é",
        "ß",
        " ",
        "\n",
        "{{ x }}",
    ]
    mixed = ["".join(rng.choices(words, k=rng.randrange(1, 12))) for _ in range(150)]
    nested = [a[:half] + b + a[half:] for a in markers(vlm) for b in markers(vlm) for half in (1, len(a) // 2)]
    return [*words, *mixed, *nested, "x" * 300, "\ud800", "a\udfffb", "\ud83d\ude00", "x" * 20_000, "<image>" * 3000]


@pytest.mark.parametrize("name", ["tiny", "pocket"])
def test_no_prompt_changes_the_number_of_image_tokens(name, vlm, request):
    model = vlm if name == "tiny" else request.getfixturevalue("pocket")
    expected = count(model, model.encode("What is this?", tiny.PICTURE))
    ends = Counter()
    for prompt in odd_prompts(model):
        for image, tokens in ((tiny.PICTURE, expected), (None, 0)):
            inputs, refusal = tried(lambda prompt=prompt, image=image: model.encode(prompt, image))
            ends["refused" if refusal else "encoded"] += 1
            assert "\n" not in refusal
            if inputs:
                assert count(model, inputs) == tokens
                special = set(model.tokenizer.all_special_ids) - {model.network.image_token}
                plain = model.encode("What is this?", image)["input_ids"][0].tolist()
                laid_out = inputs["input_ids"][0].tolist()
                assert [t for t in laid_out if t in special] == [t for t in plain if t in special]
    assert ends["encoded"] > 200
    assert ends["refused"] >= 8


@SHARED
@given(st.text(min_size=1, max_size=60))
def test_any_text_is_encoded_or_refused(vlm, prompt):
    inputs, refusal = tried(lambda: vlm.encode(prompt, tiny.PICTURE))
    assert count(vlm, inputs) == 4 if inputs else not prompt.strip() or "context" in refusal


@pytest.fixture
def in_time():
    """Let an endless loop fail."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("still at it after 20 s"))
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


SPACED = st.text("ab ", max_size=4)


@SHARED
@example(["User: "], "x User: y")
@example(["<b", "< b"], "<b")
@given(st.lists(SPACED, max_size=4), st.text("ab ", max_size=12))
def test_no_marker_survives_however_it_is_spaced(in_time, tokens, prompt):
    made = neutralise(prompt, breakable(tokens))
    assert not [token for token in tokens if len(token.strip()) > 1 and token in made]
    assert made.replace(" ", "") == prompt.replace(" ", "")


def test_a_special_token_that_ends_in_a_space_is_broken_too(in_time):
    processor = tiny.processor()
    processor.tokenizer.add_tokens(["User: "], special_tokens=True)
    (token,) = processor.tokenizer.convert_tokens_to_ids(["User: "])
    ids = Vlm(tiny.llava(), processor).encode("User: and User: User:  me", None)["input_ids"]
    assert token not in ids


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=3), st.just(10**400)
)
JUNK = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.text(max_size=2), SCALARS, max_size=2))
ALPHA = st.floats(0, 2) | st.integers(0, 2)


def holds(make, valid: bool) -> None:
    """Whether something works if it is valid, and is refused in one sentence if not."""
    if valid:
        make()
        return
    with pytest.raises(CmrmError) as caught:
        make()
    assert "\n" not in str(caught.value)


def is_number(value, low, high) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def is_whole(value, low, high) -> bool:
    return type(value) is int and low <= value <= high


@SHARED
@given(st.lists(ALPHA, max_size=4) | JUNK)
def test_alphas_of_a_comparison(vlm, offsets, alphas):
    valid = isinstance(alphas, list) and all(is_number(alpha, 0, 2) for alpha in alphas)
    valid = valid or is_number(alphas, 0, 2)
    holds(lambda: next(compare(vlm, None, "Hello", offsets, alphas, max_new_tokens=1)), valid)


VALUES = {
    "layers": (
        st.none() | st.lists(st.integers(-1, 4), max_size=4),
        lambda v: v is None or (isinstance(v, list) and v and all(is_whole(one, 0, 3) for one in v)),
    ),
    "positions": (st.sampled_from(["last", "all", "first"]), lambda v: v in ("last", "all")),
    "steps": (st.sampled_from(["prompt", "all", "none"]), lambda v: v in ("prompt", "all")),
    "seed": (st.integers(-1, 2**63), lambda v: is_whole(v, 0, 2**63 - 1)),
    "temperature": (st.floats(0, 6), lambda v: is_number(v, 0, 0) or is_number(v, 0.01, 5)),
    "top_p": (st.floats(0, 2), lambda v: is_number(v, 1e-300, 1)),
    "max_new_tokens": (st.integers(-1, 3), lambda v: is_whole(v, 1, 400)),
}


@pytest.mark.parametrize("name", VALUES)
def test_settings_work_if_they_are_valid_and_else_are_one_sentence(vlm, offsets, name):
    likely, valid = VALUES[name]

    @SHARED
    @given(likely | JUNK)
    def check(value):
        call = {"max_new_tokens": 1, name: value}
        # Where a comparison is steered may be left to the recipe.
        left_open = value is None and name in ("positions", "steps")
        holds(lambda: next(compare(vlm, None, "Hello", offsets, **call)), left_open or bool(valid(value)))
        if name in ("layers", "positions", "steps"):
            holds(lambda: steer(vlm, offsets, 1.0, **{name: value}), bool(valid(value)))

    check()


@SHARED
@given(st.lists(ALPHA, min_size=1, max_size=5) | JUNK, st.integers(1, 4))
def test_a_steered_batch_has_one_alpha_or_one_a_row(vlm, offsets, alpha, rows):
    listed = alpha if isinstance(alpha, list) else [alpha]
    valid = all(is_number(value, 0, 2) for value in listed) and len(listed) in (1, rows)
    ids = vlm.encode("Hello", None)["input_ids"].expand(rows, -1)

    def run() -> None:
        with steer(vlm, offsets, alpha):
            vlm.model(input_ids=ids)

    before = vlm.network.hook_count
    holds(run, valid)
    assert vlm.network.hook_count == before


def test_offsets_files_of_any_bytes_are_whole_or_one_sentence(offsets, tmp_path):
    rng, ends, path = random.Random(3), Counter(), tmp_path / "offsets.safetensors"
    offsets.save(path)
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, values = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(800):
        match rng.randrange(4):
            case 0:
                data = damaged(whole, rng)
            case 1:  # values that are no longer those the header knows
                place = 4 * rng.randrange(len(values) // 4)
                odd = struct.pack("<f", rng.choice((float("nan"), float("inf"), -float("inf"), 1e38)))
                data = whole[: 8 + length] + values[:place] + odd + values[place + 4 :]
            case 2:
                end = rng.choice((10 * 2**30, 2**63 - 1, 2**64, -1, 0, len(values) - 4))
                shape = rng.choice(([end // 4], [end // 256, 64], [2**32, 2**32], [0, 64], [-4, 64], []))
                tensor = {"dtype": rng.choice(("F32", "F16", "F64", "I8")), "shape": shape, "data_offsets": [0, end]}
                data = laid_out({**header, "offsets": tensor}, values)
            case _:
                inner = json.loads(header["__metadata__"]["cmrm"])
                part = rng.choice((inner, inner["fits"], inner["origin"]))
                part[rng.choice((*part, "extra"))] = rng.choice((None, True, -1, 2**70, "", [], {}, float("nan"), "4"))
                data = laid_out({**header, "__metadata__": {"cmrm": json.dumps(inner)}}, values)
        path.write_bytes(data)
        loaded, refusal = tried(lambda: Offsets.load(path))
        ends["refused" if refusal else "loaded"] += 1
        assert "\n" not in refusal
        if loaded:
            assert loaded.values.shape == (loaded.fits.layers, loaded.fits.hidden)
            assert np.isfinite(loaded.values).all()
    assert ends["refused"] > 500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB


def laid_out(header: dict, values: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


def test_a_sparse_file_of_ten_gigabytes_is_not_read_into_memory(offsets, tmp_path):
    path = tmp_path / "large.safetensors"
    size = 10 * 2**30
    inner = {"format": 1, "fits": dataclasses.asdict(offsets.fits), "origin": {}}
    tensor = {"dtype": "F32", "shape": [size // 256, 64], "data_offsets": [0, size]}
    head = laid_out({"__metadata__": {"cmrm": json.dumps(inner)}, "offsets": tensor}, b"")
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CmrmError):
        Offsets.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
