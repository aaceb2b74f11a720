"""Pictures: whatever is opened comes out upright, RGB, and in its true colours; the rest is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from cmrm import CmrmError
from cmrm.images import corrupted_image, open_image


def stored(image: Image.Image, name: str, folder, **options):
    path = folder / name
    image.save(path, **options)
    return path


def test_modes_and_formats_come_out_as_rgb_in_their_colours(tmp_path):
    red = Image.new("RGB", (8, 6), (255, 0, 0))
    for mode, name in (("RGB", "a.png"), ("P", "b.gif"), ("CMYK", "c.jpg"), ("RGB", "d.webp"), ("RGB", "e.bmp")):
        image = open_image(stored(red.convert(mode), name, tmp_path))
        assert image.mode == "RGB"
        assert image.size == (8, 6)
        assert np.abs(np.asarray(image, int) - (255, 0, 0)).max() < 12


def test_transparency_lies_on_white_and_16_bit_greys_are_scaled(tmp_path):
    clear = open_image(stored(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "clear.png", tmp_path))
    assert clear.getpixel((0, 0)) == (255, 255, 255)
    deep = Image.fromarray(np.full((4, 4), 32768, np.uint16))
    assert abs(open_image(stored(deep, "deep.png", tmp_path)).getpixel((0, 0))[0] - 127) <= 1


def test_exif_rotation_is_undone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = stored(Image.new("RGB", (10, 4)), "turned.jpg", tmp_path, exif=exif)
    assert open_image(path).size == (4, 10)


def test_animations_show_their_first_frame(tmp_path):
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_image(tmp_path / "a.gif").getpixel((2, 2)) == (255, 0, 0)


def bad_files():
    whole = io.BytesIO()
    Image.effect_noise((200, 200), 50).save(whole, "PNG")
    png = whole.getvalue()
    wide = png[:16] + (20_000).to_bytes(4, "big") * 2 + png[24:]
    return {
        "empty": b"",
        "text": b"hello",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "html": b"<html><script>1</script></html>",
        "truncated": png[: len(png) // 2],
        "header": png[:30],
        "declares 20000 x 20000": wide,
    }


@pytest.mark.parametrize("kind", bad_files())
def test_bad_files_are_refused_in_one_sentence(kind, tmp_path):
    path = tmp_path / "bad.png"
    path.write_bytes(bad_files()[kind])
    with pytest.raises(CmrmError) as caught:
        open_image(path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_large_pictures_are_refused_before_they_are_decoded(tmp_path):
    path = stored(Image.new("1", (20_000, 20_000)), "large.png", tmp_path)
    with pytest.raises(CmrmError, match="megapixels"):
        open_image(path)
    with pytest.raises(CmrmError, match="no image file"):
        open_image(tmp_path / "none.png")


def test_corrupted_images_are_what_their_names_say():
    assert corrupted_image("white", (4, 3), (0.5,) * 3).getpixel((0, 0)) == (255, 255, 255)
    assert corrupted_image("black", (4, 3), (0.5,) * 3).getpixel((0, 0)) == (0, 0, 0)
    assert corrupted_image("mean", (4, 3), (0.2, 0.4, 0.6)).getpixel((0, 0)) == (51, 102, 153)
    noise = np.asarray(corrupted_image("noise", (64, 64), (0.5,) * 3))
    assert noise.std() > 60
    assert (noise == np.asarray(corrupted_image("noise", (64, 64), (0.5,) * 3))).all()
