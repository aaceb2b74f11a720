"""Anchor offsets: one vector per decoder layer, what they fit, and how they were made."""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CmrmError
from ..model.identity import Identity
from . import offsets_file
from .offsets_file import Origin
from .vectors import Vectors


@dataclass(frozen=True, eq=False)
class Offsets(Vectors):
    """Vectors to add, `values` `(layers, hidden)` float32, and the model they fit; `format` is that of their file."""

    fits: Identity = field(kw_only=True)
    origin: Origin = field(default_factory=Origin, kw_only=True)
    format: int = field(default=offsets_file.FORMAT, kw_only=True)

    def __post_init__(self) -> None:
        offsets_file.check_values(self.values, self.fits)

    def check(self, model: Identity) -> list[str]:
        """Return a warning for each difference that may matter: model, revision, quantization, dtype.

        Raises:
            CmrmError: another architecture, hidden size or layer count, saying what differs.
        """
        for name, what in (("architecture", "architecture"), ("hidden", "hidden size"), ("layers", "layer count")):
            mine, theirs = getattr(self.fits, name), getattr(model, name)
            if mine != theirs:
                raise CmrmError(
                    f"The offsets were made for {self.fits.model!r} with {what} {mine}, but the model "
                    f"{model.model!r} has {theirs}; compute offsets for this model."
                )
        return [
            f"The offsets were made for {name} {mine or 'unknown'!r}, the model has {theirs or 'unknown'!r}."
            for name in ("model", "revision", "quantization", "dtype")
            if (mine := getattr(self.fits, name)) != (theirs := getattr(model, name))
        ]

    def digest(self) -> str:
        """Return a SHA-256 of the values."""
        return hashlib.sha256(self.values.tobytes()).hexdigest()

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

    def save(self, path: str | Path) -> None:
        """Write a safetensors file whose header says what the offsets fit and how they were made.

        Raises:
            CmrmError: the file can't be written there.
        """
        offsets_file.write(path, self.values, self.header())

    @classmethod
    def load(cls, path: str | Path) -> "Offsets":
        """Read a file that `save` wrote; `hf://owner/name[@revision]/file.safetensors` is one of the hub.

        Raises:
            CmrmError: no such file, a damaged one, or one that holds no CMRM offsets.
        """
        header, values = offsets_file.read(path)
        return cls(values, fits=header.fits, origin=header.origin, format=header.format)


def _printable(value: object) -> str:
    text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
