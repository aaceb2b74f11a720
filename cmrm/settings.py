"""The choices a user has, by name, and their checks; shared by page, command line and library."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from .errors import CmrmError

Quantization = Literal["auto", "nf4", "fp4", "int8", "none"]
DeviceMap = str | dict[str, str | int]
Method = Literal["dataset", "sample"]
Estimator = Literal["mean", "pc1", "sequential"]
Corruption = Literal["white", "black", "mean", "noise"]
Positions = Literal["last", "all"]
Steps = Literal["prompt", "all"]
Third = Literal["none", "text", "random"]
"""What answers besides: nothing, the unsteered model on the text alone, or one steered in a random direction."""

Split = Literal["dev", "test", "all"]
Preset = Literal["none", "paper"]
Layout = Literal["auto", "vlsafe", "mm-safetybench", "figstep", "xstest", "scienceqa", "generic"]

METHODS: tuple[Method, ...] = get_args(Method)
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)

# How accelerate may spread a model by itself; any other device map names devices.
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")

MAX_ALPHA = 2.0
MOST_ALPHAS = 1000
MOST_LAYERS = 1000


def check_choice(name: str, value: object, choices: object) -> None:
    """Raise `CmrmError` unless `value` is one of the values of the `Literal` type `choices`."""
    allowed = get_args(choices)
    if value not in allowed:
        raise CmrmError(f"{name} is {value!r}, but it must be one of {', '.join(map(repr, allowed))}.")


def checked_alphas(alpha: float | Sequence[float]) -> tuple[float, ...]:
    """Return alpha as a tuple of floats, all finite and in [0, 2].

    Raises:
        CmrmError: not a number, none at all, or outside the range: a negative alpha removes safety.
    """
    values = alpha if isinstance(alpha, Sequence) and not isinstance(alpha, str) else (alpha,)
    if not values:
        raise CmrmError("No alpha was given; give at least one number from 0 to 2.")
    return tuple(map(_checked_alpha, values))


def _checked_alpha(value: object) -> float:
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not 0 <= number <= MAX_ALPHA:
        raise CmrmError(
            f"alpha is {value!r}, but it must be a number from 0 to {MAX_ALPHA:g} "
            "(a negative one would remove safety); choose one in that range."
        )
    return float(number)


def checked_layers(layers: Iterable[int] | None, count: int) -> tuple[int, ...]:
    """Return the layer indices in rising order, each once; all `count` of them for None.

    Raises:
        CmrmError: no layer, or one that the model does not have.
    """
    if layers is None:
        return tuple(range(count))
    chosen = tuple(layers) if isinstance(layers, Iterable) else ()
    if not chosen or not all(type(index) is int and 0 <= index < count for index in chosen):
        raise CmrmError(f"layers is {layers!r}, but it must name decoder layers from 0 to {count - 1}.")
    return tuple(sorted(set(chosen)))


def parse_layers(text: str) -> tuple[int, ...] | None:
    """Read "0-6,9" (ends included); nothing means None.

    Raises:
        CmrmError: anything else, a range that falls, or one beyond any model.
    """
    layers: list[int] = []
    for part in filter(None, map(str.strip, text.split(","))):
        first, dash, last = part.partition("-")
        try:
            start, end = int(first), int(last if dash else first)
        except ValueError:
            start, end = 1, 0
        if not 0 <= start <= end < MOST_LAYERS:
            raise CmrmError(
                f"layers is {text!r}, but it must be decoder layers such as 0-6,9, or empty for the recipe's."
            )
        layers.extend(range(start, end + 1))
    return tuple(layers) or None


def parse_device_map(text: str) -> DeviceMap | None:
    """Read a device map as an option gives it: a word such as "auto" or "cuda:0", or JSON from modules to devices.

    Raises:
        CmrmError: malformed JSON, or JSON that is no map from names to devices.
    """
    if not text.lstrip().startswith("{"):
        return text.strip() or None
    try:
        places = json.loads(text)
    except ValueError:
        places = None
    if not isinstance(places, dict) or not all(isinstance(place, (str, int)) for place in places.values()):
        raise CmrmError(
            f'device_map is {text!r}, but it must be JSON such as {{"model": 0, "lm_head": "cpu"}}, or a word '
            "such as auto, cpu or cuda:0."
        )
    return places


def parse_alphas(text: str) -> tuple[float, ...]:
    """Read "0:2:0.25" (start, end and step, the end included) or "0.5,1,1.5".

    Raises:
        CmrmError: no range and no list of numbers, or values that are not in [0, 2].
    """
    try:
        if ":" in text:
            start, end, step = (float(part) for part in text.split(":"))
            if not step > 0 or not 0 <= start <= end <= MAX_ALPHA or (end - start) / step > MOST_ALPHAS:
                raise ValueError(text)
            values = [round(start + k * step, 6) for k in range(int((end - start) / step + 1e-6) + 1)]
        else:
            values = [float(part) for part in text.split(",") if part.strip()]
    except (ValueError, OverflowError) as error:
        raise CmrmError(
            f"alphas is {text!r}, but it must be a range such as 0:2:0.25 (start:end:step, within 0 to "
            f"{MAX_ALPHA:g}) or a list such as 0.5,1,1.5."
        ) from error
    return checked_alphas(values)
