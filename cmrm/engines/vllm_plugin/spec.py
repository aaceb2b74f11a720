"""What a request asks of the plugin: `vllm_xargs={"cmrm": TEXT}`, read and checked before the engine sees it.

TEXT is JSON, an object with these members, each of them optional:

    vectors    base64 of float32, little-endian, `(layers, hidden)` row by row
    shape      [layers, hidden] of the vectors, needed with them
    mode       "add" (default), "reach" or "project", as in `cmrm.steering.vectors.Vectors`
    levels     numbers, one a layer: where "project" brings the projection to
    alpha      0 to 2, by default 1
    layers     decoder layers that are steered, by default all
    positions  "last" (default) or "all"
    steps      "prompt" (default) or "all"
    capture    a name under which the layers' outputs at the last prompt token are kept, to be fetched once
    behind     how many tokens at the end of what is sent are an answer already, by default 0: the prompt ends before
               them, and they are steered as `steps` says of an answer's tokens
"""

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import numpy as np

from ...errors import CmrmError
from ...settings import MAX_NEW_TOKENS, MOST_LAYERS, Positions, Steps, check_choice, checked_alphas, checked_layers
from ...steering.vectors import Mode

KEY = "cmrm"
MODES: tuple[Mode, ...] = ("add", "reach", "project")
# The largest models take 4 MB of base64 (80 layers x 8192); JSON of more is no request.
MAX_CHARACTERS = 8 << 20
_CAPTURE = re.compile(r"[A-Za-z0-9_.-]{1,64}")

Shape = tuple[int, int]
Members = dict[str, object]
Word = TypeVar("Word", bound=str)


@dataclass(frozen=True, eq=False)
class Spec:
    """One request's steering, checked. `values` `(layers, hidden)` float32 and `levels` `(layers,)` float32, or None.

    `layers` are rising indices. `digest` names what fills a slot: mode, values, levels and layers.
    """

    values: np.ndarray | None = None
    mode: Mode = "add"
    levels: np.ndarray | None = None
    alpha: float = 1.0
    layers: tuple[int, ...] = ()
    positions: Positions = "last"
    steps: Steps = "prompt"
    capture: str | None = None
    behind: int = 0
    digest: bytes = field(default=b"", repr=False)

    @property
    def steers(self) -> bool:
        """Whether any state is changed."""
        return self.values is not None and self.alpha > 0

    @property
    def needs_vectors(self) -> bool:
        """Whether the op reads the vectors: a row that reaches by 0 is left as it is, but its gaps are recorded."""
        return self.steers or (self.mode == "reach" and self.capture is not None)

    @property
    def shape(self) -> Shape | None:
        """Layers and width of the vectors, None without any."""
        return None if self.values is None else (self.values.shape[0], self.values.shape[1])

    def apart(self, prompt: int) -> int | None:
        """Return from which token on no other request's keys may be read, nor these by others; None: all are shared.

        Steered keys are others than the tokens say. And a last prompt token with an answer behind it must be computed
        for its state to be recorded, where a cache would have its keys; with none behind it, it always is.
        """
        if self.steers:
            return 0 if self.positions == "all" else prompt - 1
        return prompt - 1 if self.capture is not None and self.behind else None

    def steered(self, computed: int, scheduled: int, prompt: int) -> tuple[int, int]:
        """Return which of the `scheduled` tokens behind the `computed` ones are steered, as a range (empty: none).

        Going by position, it is the same however a prompt of `prompt` tokens is split into passes or computed again.
        """
        first = 0 if self.positions == "all" else prompt - 1
        end = prompt if self.steps == "prompt" else max(prompt, computed + scheduled)
        begin, stop = (min(max(place - computed, 0), scheduled) for place in (first, end))
        return begin, max(begin, stop)

    def check_fits(self, model: Shape) -> None:
        """Raise `CmrmError` unless the vectors are `model`, layers and width."""
        if self.shape is not None and self.shape != model:
            raise CmrmError(
                f"The vectors are for {self.shape[0]} layers of width {self.shape[1]}, but this model has {model[0]} "
                f"of width {model[1]}; send vectors that were made for it."
            )

    @classmethod
    def of(cls, extra: Mapping[str, object] | None) -> "Spec | None":
        """Read what a request's extra arguments say, None if it asks for nothing.

        Raises:
            CmrmError: anything that can't be done as it was asked for.
        """
        text = (extra or {}).get(KEY)
        return None if text is None else cls.parse(text)

    @classmethod
    def parse(cls, text: object) -> "Spec":
        """Read one request.

        Raises:
            CmrmError: no such JSON, an unknown member, or a value that can't be used, in one sentence.
        """
        given = _read(text)
        capture = given.get("capture")
        if capture is not None and not (isinstance(capture, str) and _CAPTURE.fullmatch(capture)):
            raise CmrmError(
                "capture is no name for states; give 1 to 64 letters, digits, dots, dashes or underscores, "
                "new for each request."
            )
        behind = given.get("behind", 0)
        if type(behind) is not int or not 0 <= behind <= MAX_NEW_TOKENS:
            raise CmrmError(f"behind does not say how many tokens are answered; give 0 to {MAX_NEW_TOKENS}.")
        if given.get("vectors") is None:
            return cls._without_vectors(given, capture, behind)
        mode: Mode = _choice(given, "mode", "add", Mode)
        positions: Positions = _choice(given, "positions", "last", Positions)
        steps: Steps = _choice(given, "steps", "prompt", Steps)
        if mode == "reach" and positions == "all":
            raise CmrmError(
                'mode "reach" goes by the gap at the last position, which is not known where a long prompt is read in '
                'parts; ask for positions "last".'
            )
        values = _vectors(given["vectors"], given.get("shape"))
        levels = _levels(given.get("levels"), mode, len(values))
        alpha = given.get("alpha", 1.0)
        [alpha] = checked_alphas([alpha if isinstance(alpha, (int, float)) else math.nan])
        layers = checked_layers(_list(given.get("layers")), len(values))
        digest = hashlib.sha256(json.dumps([mode, layers]).encode())
        digest.update(values.tobytes() if levels is None else values.tobytes() + levels.tobytes())
        return cls(values, mode, levels, alpha, layers, positions, steps, capture, behind, digest.digest())

    @classmethod
    def _without_vectors(cls, given: Members, capture: str | None, behind: int) -> "Spec":
        lost = sorted(given.keys() - {"capture", "vectors", "behind"})
        if lost:
            raise CmrmError(f"{lost[0]} is given, but there are no vectors to steer by; send vectors with their shape.")
        if capture is None:
            raise CmrmError("Neither vectors nor capture is given, so there is nothing to do; send one, or no cmrm.")
        return cls(capture=capture, behind=behind)


_MEMBERS = frozenset(
    {"vectors", "shape", "mode", "levels", "alpha", "layers", "positions", "steps", "capture", "behind"}
)


def _read(text: object) -> Members:
    """Return the members of a JSON text."""
    if not isinstance(text, str):
        raise CmrmError("cmrm is no text; send a JSON object written as a text, as vllm_xargs takes no objects.")
    if len(text) > MAX_CHARACTERS:
        raise CmrmError(
            f"cmrm has {len(text):,} characters, but at most {MAX_CHARACTERS:,} are read; send the vectors of one "
            "model once, in base64 of float32."
        )
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CmrmError("cmrm is no JSON; send an object written as a text.") from error
    if not isinstance(given, dict):
        raise CmrmError('cmrm is no JSON object; send one, such as {"capture": "a-name"}.')
    if unknown := sorted(given.keys() - _MEMBERS):
        raise CmrmError(f"cmrm has a member {unknown[0][:40]!r}, which is unknown; choose from {sorted(_MEMBERS)}.")
    return given


def _vectors(text: object, shape: object) -> np.ndarray:
    """Return float32 `(layers, hidden)`."""
    sizes = shape if isinstance(shape, list) and len(shape) == 2 else ()
    if not sizes or not all(type(size) is int and size > 0 for size in sizes):
        raise CmrmError("shape does not say how the vectors are laid out; give [layers, hidden], two whole numbers.")
    try:
        content = base64.b64decode(text if isinstance(text, str) else "-", validate=True)
    except (binascii.Error, ValueError) as error:
        raise CmrmError("vectors is no base64; send the bytes of float32 numbers, encoded.") from error
    if len(content) != 4 * sizes[0] * sizes[1]:
        raise CmrmError(
            f"vectors holds {len(content):,} bytes, but {sizes[0]} layers of width {sizes[1]} take "
            f"{4 * sizes[0] * sizes[1]:,} in float32; send vectors of that shape."
        )
    values = np.frombuffer(content, "<f4").astype(np.float32, copy=False).reshape(sizes)
    if not np.isfinite(values).all():
        raise CmrmError("The vectors hold values that are not finite; compute them again.")
    return values


def _levels(given: object, mode: Mode, layers: int) -> np.ndarray | None:
    """Return float32 `(layers,)` for the mode "project", None for others."""
    if mode != "project":
        if given is not None:
            raise CmrmError(f'levels are given, but the mode is {mode!r}; leave them out, or ask for "project".')
        return None
    numbers = isinstance(given, list) and all(type(level) in (int, float) for level in given)
    with np.errstate(over="ignore"):
        try:
            levels = np.array(given if numbers else [], dtype=np.float32)
        except OverflowError:  # a whole number of hundreds of digits
            levels = np.array([], dtype=np.float32)
    if levels.shape != (layers,) or not np.isfinite(levels).all():
        raise CmrmError(f'levels is no list of {layers} finite numbers, one a layer, which the mode "project" needs.')
    return levels


def _choice(given: Members, name: str, default: Word, choices: object) -> Word:
    """Return a member that is one of a few words, what it is not being told in few."""
    value = given.get(name, default)
    check_choice(name, value[:40] if isinstance(value, str) else repr(value)[:40], choices)
    return cast(Word, value)


def _list(layers: object) -> Sequence[int] | None:
    """Return layers as `checked_layers` reads them: what is no short list of whole numbers is refused there."""
    whole = isinstance(layers, list) and len(layers) <= MOST_LAYERS and all(type(layer) is int for layer in layers)
    return cast(list[int] | None, layers) if layers is None or whole else ()
