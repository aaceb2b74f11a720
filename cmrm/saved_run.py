"""One comparison as JSON: enough to make it again, and to see whether it came out the same."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

from PIL import Image

from .answering.steps import Row
from .errors import CmrmError
from .files import source_of
from .images import open_image
from .model.identity import LOCAL, Identity
from .model.quantization import choice_for
from .settings import Quantization, Settings, check_prompt
from .steering.anchors import load_anchors
from .steering.offsets import Offsets
from .steering.offsets_file import read_typed
from .versions import versions
from .workbench import Workbench

FORMAT = 1
Kind = Literal["model", "offsets", "version"]
NAMES = ("unsteered", "steered", "third")
MAX_BYTES = 128 << 20


def describe_offsets(bench: Workbench, settings: Settings, offsets: Offsets | None = None) -> dict[str, object]:
    """Say what the offsets of a run with settled settings were measured by, and on what."""
    used = bench.find_offsets(settings, offsets)
    if used is not None:
        anchors, number = "the visitor's" if offsets else bench.anchors, used.origin.anchors
    elif settings.method == "sample":
        anchors, number = "the prompt", 1
    else:
        shipped = load_anchors(bench.recipes["dataset"].anchors)
        anchors, number = shipped.name, len(shipped.texts)
    measured = {"estimator": settings.estimator, "corruption": settings.corruption}
    return {**measured, "anchors": anchors, "number": number}


def write_run(
    bench: Workbench,
    image: Path | None,
    prompt: str,
    settings: Settings,
    rows: Sequence[Row],
    offsets: Offsets | None = None,
) -> dict[str, object]:
    """Return a finished run as JSON has it, its image file included.

    Raises:
        CmrmError: an image file that is gone.
    """
    chosen = bench.settle(settings, offsets)
    used = bench.find_offsets(chosen, offsets)
    return {
        "format": FORMAT,
        "model": asdict(bench.engine.identity),
        "prompt": prompt,
        "image": None if image is None else _write_image(image),
        "settings": chosen.json(),
        "offsets": {
            **describe_offsets(bench, chosen, offsets),
            # What is measured for a run is measured alike by who repeats it.
            "sha256": None if used is None else used.digest(),
        },
        "versions": versions(),
        **{name: asdict(row) for name, row in zip(NAMES, rows, strict=False)},
    }


@dataclass(frozen=True)
class Difference:
    """A fact of a run that is another now: `what` it is of, its name, and both values."""

    what: Kind
    name: str
    then: object
    now: object


@dataclass(frozen=True)
class Run:
    """A run that `write_run` wrote; `picture` is its image file in base64, and `offsets` the SHA-256 of its offsets."""

    prompt: str
    settings: Settings
    model: Identity
    texts: list[str]
    versions: dict[str, str]
    picture: str | None
    offsets: str | None

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
            if content["versions"].keys() != versions().keys():
                raise ValueError("other versions")
            check_prompt(content["prompt"])
            return cls(
                prompt=content["prompt"],
                settings=Settings.of_json(content["settings"]),
                model=read_typed(Identity, content["model"]),
                texts=[content[name]["text"] for name in NAMES if name in content],
                versions=content["versions"],
                picture=content["image"] and content["image"]["base64"],
                offsets=content["offsets"].get("sha256"),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CmrmError(
                f"{str(path)!r} is no run (missing, damaged or of another kind); give a file that the page's "
                "Download or `python -m cmrm compare --json` made."
            ) from error

    def source(self, model: str, quantization: Quantization | None) -> tuple[str, Quantization]:
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
        if self.picture is None:
            return None
        try:
            return open_image(BytesIO(base64.b64decode(self.picture)))
        except (TypeError, ValueError) as error:
            raise CmrmError("The image in the run can't be read; download the run again.") from error

    def differences(self, bench: Workbench) -> Iterator[Difference]:
        """Yield each thing that is not as it was."""
        now = asdict(bench.engine.identity)
        yield from _compare("model", asdict(self.model), now)
        if self.offsets is not None:
            yield from _compare("offsets", {"sha256": self.offsets}, {"sha256": bench.offsets.digest()})
        yield from _compare("version", self.versions, versions())


def _compare(what: Kind, then: Mapping[str, object], now: Mapping[str, object]) -> Iterator[Difference]:
    return (Difference(what, name, then[name], now[name]) for name in then if then[name] != now[name])


def _write_image(path: Path) -> dict[str, str]:
    try:
        return {"name": path.name, "base64": base64.b64encode(path.read_bytes()).decode()}
    except OSError as error:
        raise CmrmError("The image of this run is no longer kept; run it again.") from error
