"""The offsets file: a safetensors file whose header says what the offsets fit and how they were made.

Nothing here imports torch, so that a file can be looked at in no time.
"""

import dataclasses
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_origin

import numpy as np
from huggingface_hub import hf_hub_download, parse_hf_uri
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import CmrmError, first_sentence
from ..files import write_whole

FORMAT = 2
_READ = (1, FORMAT)  # format 1 has no norms
_HUB = "hf://"
LOCAL = "local/"  # in front of a folder's name, in the place of a hub id
MAX_BYTES = 256 << 20  # some twenty times what the largest models take


@dataclass(frozen=True)
class Identity:
    """What offsets must fit (architecture, hidden, layers) or should fit (the rest)."""

    model: str
    revision: str
    architecture: str
    hidden: int
    layers: int
    quantization: str
    dtype: str

    def digest(self) -> str:
        """Return a SHA-256 of all fields, as a key for caches."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Origin:
    """How offsets were made: enough to make them again and to know what they are."""

    estimator: str = ""
    corruption: str = ""
    anchors: int = 0
    anchors_sha256: str = ""
    created: str = ""
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class OffsetsFile:
    """What a file holds: `values`, `(layers, hidden)` float32, checked against the header."""

    values: np.ndarray
    fits: Identity
    origin: Origin
    format: int = FORMAT

    @property
    def norms(self) -> list[float]:
        """Euclidean length of each layer's vector, to six digits."""
        return [float(f"{norm:.6g}") for norm in np.linalg.norm(self.values.astype(np.float64), axis=1)]

    def header(self) -> dict[str, Any]:
        """Return all but the values, as JSON has it."""
        return {
            "format": self.format,
            "fits": asdict(self.fits),
            "origin": asdict(self.origin),
            "norms": self.norms,
        }

    def facts(self) -> dict[str, str]:
        """Return what the header says but the norms, in words, without characters that control a terminal."""
        entries = {"format": self.format, **asdict(self.fits), **asdict(self.origin)}
        return {name: _printable(value) or "unknown" for name, value in entries.items()}

    def write(self, path: str | Path) -> None:
        """Write the file, beside its place and then renamed, so that no failure leaves a half-made one.

        Raises:
            CmrmError: the file can't be written there.
        """
        if str(path).startswith("hf:"):
            raise CmrmError(
                f"Offsets are only read from the hub, not written to it; save them to a file instead of {str(path)!r} "
                "and upload that."
            )
        try:
            content = save({"offsets": np.ascontiguousarray(self.values)}, {"cmrm": json.dumps(self.header())})
            write_whole(Path(path), content)
        except (OSError, SafetensorError) as error:
            raise CmrmError(
                f"The offsets could not be written to {str(path)!r} ({error}); choose another place."
            ) from error

    @classmethod
    def read(cls, path: str | Path) -> "OffsetsFile":
        """Read and check a file that `write` wrote; `hf://owner/name[@revision]/file` is one of the hub.

        Raises:
            CmrmError: no such file, a damaged one, or one that holds no CMRM offsets.
        """
        name, local = repr(str(path)), _located(path)
        try:
            if local.stat().st_size > MAX_BYTES:
                raise CmrmError(f"{name} has more than {MAX_BYTES >> 20} MiB, so it is no offsets file; give another.")
            with safe_open(local, framework="np") as file:
                header = json.loads((file.metadata() or {})["cmrm"])
                if header["format"] not in _READ:
                    raise CmrmError(f"{name} has format {header['format']}, but {FORMAT} is read; extract again.")
                made = cls(file.get_tensor("offsets"), typed(Identity, header["fits"]), typed(Origin, header["origin"]))
                check_values(made.values.shape, str(made.values.dtype), np.isfinite(made.values).all(), made.fits)
                if header["format"] == FORMAT and not _near(header["norms"], made.norms):
                    raise CmrmError(f"The values in {name} are not those its header was written for; extract again.")
                return dataclasses.replace(made, format=header["format"])
        except CmrmError:
            raise
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise CmrmError(
                f"{name} is no whole CMRM offsets file (truncated, or of another kind); "
                "run `python -m cmrm extract` to make a new one."
            ) from error


def check_values(shape: tuple[int, ...], dtype: str, finite: bool, fits: Identity) -> None:
    """Raise `CmrmError` unless values are finite float32 `(fits.layers, fits.hidden)`."""
    expected = (fits.layers, fits.hidden)
    if shape != expected or dtype != "float32":
        raise CmrmError(
            f"The offsets are {shape} {dtype}, but their header says {expected} float32; the file is damaged, "
            "compute the offsets again."
        )
    if not finite:
        raise CmrmError("The offsets hold values that are not finite; compute them again.")


def _located(path: str | Path) -> Path:
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


def typed(kind: type, values: dict[str, Any]) -> Any:
    """Build a dataclass from JSON values, each of its field's type, else it is a TypeError."""
    made = kind(**values)
    for entry in dataclasses.fields(kind):
        if type(getattr(made, entry.name)) is not (get_origin(entry.type) or entry.type):
            raise TypeError(f"{entry.name} in the header is of the wrong type")
    return made


def _printable(value: Any) -> str:
    text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _near(norms: list[float], expected: list[float]) -> bool:
    return len(norms) == len(expected) and np.allclose(norms, expected, rtol=1e-4)
