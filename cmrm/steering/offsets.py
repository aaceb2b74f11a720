"""Anchor offsets: one vector per decoder layer, and what they fit."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..errors import CmrmError
from ..model.vlm import Vlm
from .offsets_file import Identity, OffsetsFile, Origin, check_values


@dataclass(frozen=True, eq=False)
class Offsets:
    """Offset vectors `values`, `(layers, hidden)` float32 on the CPU, and the model they fit.

    Offsets are a `Steering`: their delta is the layer's vector, whatever the state.
    """

    values: torch.Tensor
    fits: Identity
    origin: Origin = field(default_factory=Origin)

    def __post_init__(self) -> None:
        finite = bool(torch.isfinite(self.values).all())
        check_values(tuple(self.values.shape), str(self.values.dtype).removeprefix("torch."), finite, self.fits)

    def delta(self, layer: int, state: torch.Tensor) -> torch.Tensor:
        """Return the vector of `layer`, float32 `(hidden,)`, on the device of `state`."""
        return self.values[layer].to(state.device)

    def check(self, vlm: Vlm) -> list[str]:
        """Return a warning for each difference that may matter: model, revision, quantization, dtype.

        Raises:
            CmrmError: another architecture, hidden size or layer count, saying what differs.
        """
        for name, what in (("architecture", "architecture"), ("hidden", "hidden size"), ("layers", "layer count")):
            mine, theirs = getattr(self.fits, name), getattr(vlm.identity, name)
            if mine != theirs:
                raise CmrmError(
                    f"The offsets were made for {self.fits.model!r} with {what} {mine}, but the model "
                    f"{vlm.identity.model!r} has {theirs}; compute offsets for this model."
                )
        return [
            f"The offsets were made for {name} {mine or 'unknown'!r}, the model has {theirs or 'unknown'!r}."
            for name in ("model", "revision", "quantization", "dtype")
            if (mine := getattr(self.fits, name)) != (theirs := getattr(vlm.identity, name))
        ]

    def digest(self) -> str:
        """Return a SHA-256 of the values."""
        return hashlib.sha256(self.values.numpy().tobytes()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write a safetensors file whose header says what the offsets fit and how they were made.

        Raises:
            CmrmError: the file can't be written there.
        """
        self.file().write(path)

    def file(self) -> OffsetsFile:
        """Return them as a file holds them; its `header` says what they fit and how they were made."""
        return OffsetsFile(self.values.numpy(), self.fits, self.origin)

    @classmethod
    def load(cls, path: str | Path) -> "Offsets":
        """Read a file that `save` wrote; `hf://owner/name[@revision]/file.safetensors` is one of the hub.

        Raises:
            CmrmError: no such file, a damaged one, or one that holds no CMRM offsets.
        """
        made = OffsetsFile.read(path)
        return cls(torch.from_numpy(made.values), made.fits, made.origin)
