"""The choices of a run: each spelled once, with its default, its check, its text form and its JSON.

To add one: a field of `Settings` here, its control on the page (`ui/controls.py`), and the docs. Nothing here imports
torch, and nothing needs a model: what can be wrong without one is rejected before one is loaded.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import groupby
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

EngineName = Literal["local", "vllm"]
Split = Literal["dev", "test", "all"]
Preset = Literal["none", "paper"]
Layout = Literal["auto", "vlsafe", "mm-safetybench", "figstep", "xstest", "scienceqa", "generic"]

METHODS: tuple[Method, ...] = get_args(Method)
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)

# How accelerate may spread a model by itself; any other device map names devices.
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")

DEFAULT_LENGTH = 128
MAX_NEW_TOKENS = 2048
MAX_CHARACTERS = 20_000
MAX_LIST_CHARACTERS = 2_000
MAX_ALPHA = 2.0
MOST_ALPHAS = 1000
MOST_LAYERS = 1000


def check_choice(name: str, value: object, choices: object) -> None:
    """Raise `CmrmError` unless `value` is one of the values of the `Literal` type `choices`."""
    allowed = get_args(choices)
    if value not in allowed:
        raise CmrmError(f"{name} is {value!r}, but it must be one of {', '.join(map(repr, allowed))}.", name)


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
            "(a negative one would remove safety); choose one in that range.",
            "alpha",
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
    if not chosen or not all(type(index) is int for index in chosen):
        raise CmrmError(f"layers is {layers!r}, but it must name decoder layers from 0 to {count - 1}.", "layers")
    if beyond := [str(index) for index in chosen if not 0 <= index < count]:
        what = "is not one" if len(beyond) == 1 else "are none"
        raise CmrmError(f"Layers go from 0 to {count - 1}; {', '.join(beyond[:5])} {what} of them.", "layers")
    return tuple(sorted(set(chosen)))


def _check_short(name: str, text: str) -> None:
    if len(text) > MAX_LIST_CHARACTERS:
        raise CmrmError(
            f"{name} has {len(text):,} characters, but at most {MAX_LIST_CHARACTERS:,} are read; shorten it.", name
        )


def parse_layers(text: str) -> tuple[int, ...] | None:
    """Read "0-6,9" (ends included); nothing means None.

    Raises:
        CmrmError: anything else, a range that falls, or one beyond any model.
    """
    _check_short("layers", text)
    layers: set[int] = set()
    for part in filter(None, map(str.strip, text.split(","))):
        first, dash, last = part.partition("-")
        try:
            start, end = int(first), int(last if dash else first)
        except ValueError:
            start, end = 1, 0
        if not 0 <= start <= end < MOST_LAYERS:
            raise CmrmError(
                f"layers is {text!r}, but it must be decoder layers such as 0-6,9, or empty for the recipe's.", "layers"
            )
        layers.update(range(start, end + 1))
    return tuple(sorted(layers)) or None


def format_layers(layers: Iterable[int] | None) -> str:
    """Write rising layer indices as `parse_layers` reads them."""
    runs = groupby(enumerate(layers or ()), lambda pair: pair[1] - pair[0])
    ends = [(run[0][1], run[-1][1]) for run in (list(pairs) for _, pairs in runs)]
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in ends)


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
    _check_short("alphas", text)
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


def check_prompt(prompt: object) -> None:
    """Raise `CmrmError` for a prompt that is empty, longer than 20,000 characters or not Unicode text."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise CmrmError("The prompt is empty, so there is nothing to answer; type a question or a request.", "prompt")
    if len(prompt) > MAX_CHARACTERS:
        raise CmrmError(
            f"The prompt has {len(prompt):,} characters, but at most {MAX_CHARACTERS:,} are read; "
            f"shorten it by {len(prompt) - MAX_CHARACTERS:,}.",
            "prompt",
        )
    if re.search("[\ud800-\udfff]", prompt):
        raise CmrmError(
            "The prompt holds half a character (a lone surrogate), which is no Unicode text; remove it.", "prompt"
        )


def _choice(text: str, variable: str) -> dict[str, str]:
    """Return what the command line says of the choice of a model, and the variable that may make it."""
    return {"option": text, "variable": variable}


@dataclass(frozen=True)
class ModelChoice:
    """Which model answers, and where: what is chosen once, before any request.

    With the engine "vllm" it is the one that a server has loaded: only `plain_template` is still for this side.

    Raises:
        CmrmError: a quantization, an engine or a device map that is none.
    """

    model: str = field(default="pocket", metadata=_choice("'pocket', a folder, or a hub model id.", "CMRM_MODEL"))
    quantization: Quantization = field(
        default="auto", metadata=_choice("Weights of the text decoder.", "CMRM_QUANTIZATION")
    )
    device_map: str = field(
        default="",
        metadata=_choice(
            "A device, auto, balanced or sequential, or JSON from modules to devices; default: auto with CUDA.",
            "CMRM_DEVICE_MAP",
        ),
    )
    plain_template: bool = field(
        default=False,
        metadata=_choice("Bare prompts for a model without a chat template.", "CMRM_PLAIN_TEMPLATE"),
    )
    engine: EngineName = field(
        default="local", metadata=_choice("The model in this process, or in a vLLM server.", "CMRM_ENGINE")
    )
    engine_url: str = field(
        default="http://127.0.0.1:8000", metadata=_choice("Where the server is.", "CMRM_ENGINE_URL")
    )
    engine_key: str = field(
        default="", repr=False, metadata=_choice("The key that the server asks for, if any.", "CMRM_ENGINE_KEY")
    )

    def __post_init__(self) -> None:
        check_choice("quantization", self.quantization, Quantization)
        check_choice("engine", self.engine, EngineName)
        parse_device_map(self.device_map)


def _texts(option: str, parameter: str) -> dict[str, str]:
    """Return what the command line and the API say of a setting."""
    return {"option": option, "parameter": parameter}


@dataclass(frozen=True)
class Settings:
    """A run's choices; None leaves one to the method's recipe (`Workbench.settle` fills it in).

    `alpha` is the strength, and `method` says whose offsets are added: those of an anchor set, or of this prompt.
    `layers`, `positions` and `steps` say where they are added, `estimator` and `corruption` how they are measured.
    `seed` is of sampling, which a `temperature` above 0 turns on, and of the random direction of `third`, the answer
    that stands beside.

    Raises:
        CmrmError: a value that no model takes.
    """

    alpha: float | None = field(
        default=None,
        metadata=_texts(
            "Strength, 0 to 2; default: the method's own.",
            "strength of steering, 0 to 2; left out, the method's default",
        ),
    )
    method: Method = field(
        default="dataset",
        metadata=_texts(
            "Offsets of an anchor set, or of this prompt.",
            'whose offsets are added: "dataset" (of an anchor set) or "sample" (of this prompt)',
        ),
    )
    max_new_tokens: int = field(
        default=DEFAULT_LENGTH, metadata=_texts("Longest answer.", "length of the longest answer, in tokens")
    )
    temperature: float = field(default=0.0, metadata=_texts("0 is greedy.", "of sampling; 0, the default, is greedy"))
    seed: int = field(
        default=0,
        metadata=_texts(
            "For temperatures above 0, and for the random direction.",
            "of sampling, the same for all answers, if the temperature is above 0; and of the random direction",
        ),
    )
    top_p: float = field(
        default=1.0,
        metadata=_texts(
            "For temperatures above 0: the likeliest tokens to draw from.",
            "of sampling: draw from the likeliest tokens whose probabilities reach this sum; 1 is from all",
        ),
    )
    estimator: Estimator | None = field(
        default=None,
        metadata=_texts(
            "How offsets are measured; default: as those at hand were.",
            'how offsets are measured, first if need be: "mean", "pc1" or "sequential"; "" is as those at hand were',
        ),
    )
    corruption: Corruption | None = field(
        default=None,
        metadata=_texts(
            "Image beside which they are measured; default: likewise.",
            'image beside which they are measured: "white", "black", "mean" or "noise"; "" likewise',
        ),
    )
    layers: tuple[int, ...] | None = field(
        default=None,
        metadata=_texts(
            "Decoder layers such as 0-6,9; default: the recipe's.",
            'decoder layers to steer, such as "0-6,9"; "" for the recipe\'s',
        ),
    )
    positions: Positions | None = field(
        default=None,
        metadata=_texts("Shifted in a pass; default: the recipe's.", '"last" or "all" of a pass; "" for the recipe\'s'),
    )
    steps: Steps | None = field(
        default=None,
        metadata=_texts(
            "Passes that are steered; default: the recipe's.",
            '"prompt", or "all" for each new token too; "" for the recipe\'s',
        ),
    )
    third: Third = field(
        default="none",
        metadata=_texts(
            "A third answer: of the text alone, or in a random direction.",
            '"text" adds an answer to the prompt alone, "random" one steered in a random direction; to the details',
        ),
    )

    def __post_init__(self) -> None:
        check_choice("method", self.method, Method)
        if self.alpha is not None:
            object.__setattr__(self, "alpha", *checked_alphas([self.alpha]))
        if type(self.max_new_tokens) is not int or not 1 <= self.max_new_tokens <= MAX_NEW_TOKENS:
            raise CmrmError(
                f"max_new_tokens is {self.max_new_tokens!r}, but it must be a whole number from 1 to {MAX_NEW_TOKENS}.",
                "max_new_tokens",
            )
        if not _is_number(self.temperature) or (self.temperature and not 0.01 <= self.temperature <= 5):
            raise CmrmError(
                f"temperature is {self.temperature!r}, but it must be 0 (greedy), or from 0.01 to 5.", "temperature"
            )
        if not _is_number(self.top_p) or not 0 < self.top_p <= 1:
            raise CmrmError(f"top_p is {self.top_p!r}, but it must be above 0 and at most 1.", "top_p")
        if type(self.seed) is not int or not 0 <= self.seed < 2**63:
            raise CmrmError(f"seed is {self.seed!r}, but it must be a whole number from 0 to 2^63 - 1.", "seed")
        for name, choices in _CHOICES.items():
            if getattr(self, name) is not None:
                check_choice(name, getattr(self, name), choices)
        check_choice("third", self.third, Third)
        if (self.method, self.estimator) == ("sample", "pc1"):
            raise CmrmError(
                'The estimator "pc1" needs several texts, and the method "sample" has one, the prompt; choose another '
                "estimator or method.",
                "estimator",
            )
        if self.layers is not None:
            object.__setattr__(self, "layers", checked_layers(self.layers, MOST_LAYERS))

    @classmethod
    def parse(cls, **given: object) -> "Settings":
        """Read choices as a page, an API or a command line has them: texts, numbers, "" or None for the recipe's.

        Raises:
            CmrmError: a value that is none, in words.
        """
        read = {name: value for name, value in given.items() if name not in LEFT_OPEN or value not in (None, "")}
        read |= {name: _whole(read[name]) for name in ("max_new_tokens", "seed") if name in read}
        if isinstance(layers := _whole(read.get("layers")), (str, int)):
            read["layers"] = parse_layers(str(layers))
        return cls(**read)  # type: ignore[arg-type]  # what is no such value is rejected in words

    @classmethod
    def of_json(cls, values: Mapping[str, object]) -> "Settings":
        """Read what `json` wrote.

        Raises:
            CmrmError: a value that no model takes.
            TypeError: other names than those of the fields.
        """
        if values.keys() != {field.name for field in fields(cls)}:
            raise TypeError("these are other settings")
        layers = values["layers"]
        read = {**values, "layers": tuple(layers) if isinstance(layers, list) else layers}
        return cls(**read)  # type: ignore[arg-type]  # as in `parse`

    def json(self) -> dict[str, object]:
        """Return them by name, as JSON has them."""
        return asdict(self)

    def only(self, *names: str) -> "Settings":
        """Return those of these names, and the defaults of all others."""
        return Settings(**{name: getattr(self, name) for name in names})


LEFT_OPEN = tuple(one.name for one in fields(Settings) if one.default is None)
"""What may be left to the method's recipe, which has a field of the same name."""

SWEPT = ("method", "max_new_tokens")
EXPLAINED = ("alpha", "method", "max_new_tokens")
MEASURED = ("estimator", "corruption")
"""The settings that a sweep, an explanation and a measurement of offsets take."""

_CHOICES = {"estimator": Estimator, "corruption": Corruption, "positions": Positions, "steps": Steps}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value: object) -> object:
    """Return 64 for 64.0, which JSON makes no difference between, and anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
