"""Pictures in: what a user gave, made safe and upright, and the corrupted images of the method."""

import hashlib
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from .errors import CmrmError
from .settings import Corruption, check_choice

ImageInput = Image.Image | str | Path | None

MAX_PIXELS = 50_000_000
# Processors that scale the shorter side to a fixed length would blow a ribbon up beyond all memory.
MAX_RATIO = 100
# The rest of Pillow's formats are rare, and some run other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")


def digest_image(image: Image.Image) -> bytes:
    """Return the SHA-256 of a picture as it is: its mode, its size and its pixels."""
    return hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).digest()


def open_image(source: Image.Image | str | Path | BinaryIO) -> Image.Image:
    """Return the picture as upright RGB, transparent parts on white.

    Raises:
        CmrmError: no such file, no picture of a common format, a damaged one, one of more than 50 megapixels,
            or one more than 100 times as long as wide.
    """
    try:
        with warnings.catch_warnings():
            # The size is checked before anything is decoded; what else Pillow finds odd is no news to a visitor.
            warnings.simplefilter("ignore")
            image = source if isinstance(source, Image.Image) else Image.open(source, formats=FORMATS)
            _check_size(image)
            return _on_white(ImageOps.exif_transpose(image))
    except CmrmError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large() from error
    except FileNotFoundError as error:
        raise CmrmError(f"There is no image file {str(source)!r}; check the path.", "image") from error
    # Pillow's decoders raise many kinds of errors on damaged files (SyntaxError, struct.error, ...).
    except Exception as error:
        raise CmrmError(
            "The image could not be read, because the file is empty, damaged or not a picture; "
            "give a whole PNG, JPEG or WebP file.",
            "image",
        ) from error


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(f"{image.width} x {image.height} pixels")
    if not image.width * image.height:
        raise CmrmError("The image has no pixels; give one with a width and a height.", "image")
    if max(image.size) > MAX_RATIO * min(image.size):
        raise CmrmError(
            f"The image is {image.width} x {image.height} pixels, more than {MAX_RATIO} times as long as wide; "
            "crop it first.",
            "image",
        )


def _too_large(size: str = "too large") -> CmrmError:
    sentence = f"The image is {size}, more than {MAX_PIXELS // 1_000_000} megapixels; scale it down first."
    return CmrmError(sentence, "image")


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # 16- and 32-bit greys: Pillow would clip them at 255 instead of scaling.
        grey = np.nan_to_num(np.array(image, dtype=np.float32), copy=False).clip(0)
        depth = 255.0 if grey.max(initial=0) <= 255 else max(65535.0, float(grey.max()))
        image = Image.fromarray((grey * np.float32(255 / depth)).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def corrupted_image(
    corruption: Corruption, size: tuple[int, int], mean: tuple[float, float, float], seed: int = 0
) -> Image.Image:
    """Return a meaningless RGB picture of `size` (width, height).

    `mean` is the mean colour, 0..1 a channel, that the model's image processor subtracts; noise is
    uniform in each channel.
    """
    check_choice("corruption", corruption, Corruption)
    if corruption == "noise":
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        return Image.fromarray(pixels)
    fill = {"white": (255, 255, 255), "black": (0, 0, 0), "mean": tuple(round(255 * c) for c in mean)}
    return Image.new("RGB", size, fill[corruption])
