"""The file of offsets: safetensors, whose header says what they fit and how they were made, checked when it is read."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin

import numpy as np
from huggingface_hub import hf_hub_download, parse_hf_uri
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import CmrmError, first_sentence
from ..files import write_whole
from ..model.identity import Identity

FORMAT = 2
_READ = (1, FORMAT)  # format 1 has no norms
_HUB = "hf://"
MAX_BYTES = 256 << 20  # some twenty times what the largest models take


@dataclass(frozen=True)
class Origin:
    """How offsets were made: enough to make them again and to know what they are."""

    estimator: str = ""
    corruption: str = ""
    anchors: int = 0
    anchors_sha256: str = ""
    created: str = ""
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Header:
    """What a file says beside its values."""

    format: int
    fits: Identity
    origin: Origin


def write(path: str | Path, values: np.ndarray, header: dict[str, Any]) -> None:
    """Write a file, beside its place and then renamed, so that no failure leaves a half-made one.

    Raises:
        CmrmError: the file can't be written there.
    """
    if str(path).startswith("hf:"):
        raise CmrmError(
            f"Offsets are only read from the hub, not written to it; save them to a file instead of {str(path)!r} "
            "and upload that."
        )
    try:
        write_whole(Path(path), save({"offsets": np.ascontiguousarray(values)}, {"cmrm": json.dumps(header)}))
    except (OSError, SafetensorError) as error:
        raise CmrmError(
            f"The offsets could not be written to {str(path)!r} ({error}); choose another place."
        ) from error


def read(path: str | Path) -> tuple[Header, np.ndarray]:
    """Read and check a file that `write` wrote; `hf://owner/name[@revision]/file` is one of the hub.

    Raises:
        CmrmError: no such file, a damaged one, or one that holds no CMRM offsets.
    """
    name, local = repr(str(path)), _find(path)
    try:
        if local.stat().st_size > MAX_BYTES:
            raise CmrmError(f"{name} has more than {MAX_BYTES >> 20} MiB, so it is no offsets file; give another.")
        with safe_open(local, framework="np") as file:
            content = json.loads((file.metadata() or {})["cmrm"])
            if content["format"] not in _READ:
                raise CmrmError(f"{name} has format {content['format']}, but {FORMAT} is read; extract again.")
            fits, origin = read_typed(Identity, content["fits"]), read_typed(Origin, content["origin"])
            values = np.array(file.get_tensor("offsets"))
            check_values(values, fits)
            norms = np.linalg.norm(values.astype(np.float64), axis=1)
            if content["format"] == FORMAT and not _near(content["norms"], norms):
                raise CmrmError(f"The values in {name} are not those its header was written for; extract again.")
            return Header(content["format"], fits, origin), values
    except CmrmError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CmrmError(
            f"{name} is no whole CMRM offsets file (truncated, or of another kind); "
            "run `python -m cmrm extract` to make a new one."
        ) from error


def check_values(values: np.ndarray, fits: Identity) -> None:
    """Raise `CmrmError` unless values are finite float32 `(fits.layers, fits.hidden)`."""
    expected = (fits.layers, fits.hidden)
    if values.shape != expected or values.dtype != np.float32:
        raise CmrmError(
            f"The offsets are {values.shape} {values.dtype}, but their header says {expected} float32; the file is "
            "damaged, compute the offsets again."
        )
    if not np.isfinite(values).all():
        raise CmrmError("The offsets hold values that are not finite; compute them again.")


def _find(path: str | Path) -> Path:
    text = str(path)
    if not text.startswith(_HUB):
        if not Path(text).is_file():
            raise CmrmError(f"There is no offsets file {text!r}; check the path or run `python -m cmrm extract`.")
        return Path(text)
    try:
        place = parse_hf_uri(text)
        if not place.path_in_repo:
            raise ValueError("it names no file")
        return Path(hf_hub_download(place.id, place.path_in_repo, repo_type=place.type, revision=place.revision))
    # The hub's client reports a bad address, a missing file and a missing network by many exception types.
    except Exception as error:
        raise CmrmError(
            f"The offsets file {text!r} could not be read from the hub ({first_sentence(error)}); check the address "
            f"({_HUB}owner/name/file.safetensors, @revision behind the name), the network, and HF_TOKEN if it is gated."
        ) from error


def read_typed(kind: type, values: dict[str, Any]) -> Any:
    """Return a dataclass built from JSON values, each of its field's type, else it is a TypeError."""
    made = kind(**values)
    for entry in dataclasses.fields(kind):
        if type(getattr(made, entry.name)) is not (get_origin(entry.type) or entry.type):
            raise TypeError(f"{entry.name} in the header is of the wrong type")
    return made


def _near(norms: list[float], expected: np.ndarray) -> bool:
    return len(norms) == len(expected) and np.allclose(norms, expected, rtol=1e-4)
