"""One comparison as JSON: enough to make it again, and to see whether it came out the same."""

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from .answering.comparison import Row
from .errors import CmrmError
from .images import open_image
from .model.quantization import choice_for
from .model.vlm import source_of
from .settings import Quantization
from .steering.anchors import load_anchors
from .steering.offsets import Offsets
from .steering.offsets_file import LOCAL, Identity, typed
from .versions import versions
from .workbench import Workbench

FORMAT = 1
NAMES = ("unsteered", "steered", "third")
MAX_BYTES = 128 << 20

_CHANGES = ("alpha", "estimator", "corruption", "layers", "positions", "steps")
_OTHERS = {"max_new_tokens": 128, "temperature": 0.0, "top_p": 1.0, "seed": 0, "third": "none"}


def settled(bench: Workbench, method: Any = "dataset", offsets: Offsets | None = None, **asked: Any) -> dict[str, Any]:
    """Return the settings of a run by the names of `Workbench.compare`, with the recipe's where none was asked for.

    Raises:
        CmrmError: as `Workbench.recipe`.
    """
    recipe = bench.recipe(method, offsets, **{name: asked.get(name) for name in _CHANGES})
    chosen = {name: asked.get(name, default) for name, default in _OTHERS.items()}
    return {"method": method, **{name: getattr(recipe, name) for name in _CHANGES}, **chosen}


def origin(bench: Workbench, settings: dict[str, Any], offsets: Offsets | None = None) -> dict[str, Any]:
    """Say what the offsets of a run were measured by, and on what."""
    used = _used(bench, settings, offsets)
    if used is not None:
        anchors, number = "the visitor's" if offsets else bench.anchors, used.origin.anchors
    elif settings["method"] == "sample":
        anchors, number = "the prompt", 1
    else:
        chosen = load_anchors(bench.recipes["dataset"].anchors)
        anchors, number = chosen.name, len(chosen.texts)
    measured = {name: settings[name] for name in ("estimator", "corruption")}
    return {**measured, "anchors": anchors, "number": number}


def _used(bench: Workbench, settings: dict[str, Any], offsets: Offsets | None) -> Offsets | None:
    return bench.at_hand(settings["method"], settings["estimator"], settings["corruption"], offsets)


def described(
    bench: Workbench,
    image: str | Path | None,
    prompt: str,
    rows: Sequence[Row],
    offsets: Offsets | None = None,
    **asked: Any,
) -> dict[str, Any]:
    """Return a finished run as JSON has it, its image file included.

    Raises:
        CmrmError: an image file that is gone.
    """
    settings = settled(bench, offsets=offsets, **asked)
    used = _used(bench, settings, offsets)
    return {
        "format": FORMAT,
        "model": asdict(bench.vlm.identity),
        "prompt": prompt,
        "image": None if image is None else _held(Path(image)),
        "settings": settings,
        "offsets": {
            **origin(bench, settings, offsets),
            # What is measured for a run is measured alike by who repeats it.
            "sha256": None if used is None else used.digest(),
        },
        "versions": versions(),
        **{name: asdict(row) for name, row in zip(NAMES, rows, strict=False)},
    }


class Run:
    """A run that `described` wrote."""

    def __init__(self, content: dict[str, Any]):
        self.prompt: str = content["prompt"]
        self.settings: dict[str, Any] = content["settings"]
        self.model: Identity = typed(Identity, content["model"])
        self.texts = [content[name]["text"] for name in NAMES if name in content]
        self.versions: dict[str, str] = dict(content["versions"])
        self._image: dict[str, str] | None = content["image"]
        self._offsets: str | None = dict(content["offsets"]).get("sha256")

    @classmethod
    def read(cls, path: str | Path) -> "Run":
        """Read a file.

        Raises:
            CmrmError: no such file, or one that holds no run.
        """
        try:
            if Path(path).stat().st_size > MAX_BYTES:
                raise ValueError("too large")
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError("another format")
            run = cls(content)
            if set(run.settings) != {"method", *_CHANGES, *_OTHERS} or run.versions.keys() != versions().keys():
                raise ValueError("other settings")
            return run
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CmrmError(
                f"{str(path)!r} is no run (missing, damaged or of another kind); give a file that the page's "
                "Download or `python -m cmrm compare --json` made."
            ) from error

    def loaded_by(self, model: str, quantization: Quantization | None) -> tuple[str, Quantization]:
        """Return the model and the quantization to repeat the run by: those given, or else ("", None) its own.

        Raises:
            CmrmError: its model was in a folder, and none is given.
        """
        name = model or self.model.model
        if not model and name.startswith(LOCAL):
            folder = name.removeprefix(LOCAL)
            raise CmrmError(f"This run was made with the model in a folder ({folder}); give the folder by --model.")
        return name, quantization or choice_for(self.model.quantization, source_of(name))

    @property
    def image(self) -> Image.Image | None:
        """Return the picture.

        Raises:
            CmrmError: a damaged one.
        """
        if self._image is None:
            return None
        try:
            return open_image(BytesIO(base64.b64decode(self._image["base64"])))
        except (KeyError, TypeError, ValueError) as error:
            raise CmrmError("The image in the run can't be read; download the run again.") from error

    def differences(self, bench: Workbench) -> list[str]:
        """Return a sentence for each thing that is not as it was."""
        mine, theirs = asdict(self.model), asdict(bench.vlm.identity)
        found = [
            f"The {name} was {mine[name]!r} and is {theirs[name]!r}." for name in mine if mine[name] != theirs[name]
        ]
        if self._offsets not in (None, bench.offsets.digest()):
            found.append("The offsets are others; give those of the run by --offsets.")
        for name, now in versions().items():
            then = self.versions[name]
            found += [f"The version of {name} was {then} and is {now}."] if now != then else []
        return found


def _held(path: Path) -> dict[str, str]:
    try:
        return {"name": path.name, "base64": base64.b64encode(path.read_bytes()).decode()}
    except OSError as error:
        raise CmrmError("The image of this run is no longer kept; run it again.") from error
