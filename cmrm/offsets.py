"""Anchor offsets: one vector per decoder layer, what they fit, and their safetensors file."""

import dataclasses
import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .errors import CmrmError
from .model import Identity, Vlm

FORMAT = 1


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
class Offsets:
    """Offset vectors `values`, `(layers, hidden)` float32 on the CPU, and the model they fit.

    Offsets are a `Steering`: their delta is the layer's vector, whatever the state.
    """

    values: torch.Tensor
    fits: Identity
    origin: Origin = Origin()

    def __post_init__(self) -> None:
        expected = (self.fits.layers, self.fits.hidden)
        if tuple(self.values.shape) != expected or self.values.dtype != torch.float32:
            raise CmrmError(
                f"The offsets are {tuple(self.values.shape)} {self.values.dtype}, but their header says "
                f"{expected} float32; the file is damaged, compute the offsets again."
            )
        if not torch.isfinite(self.values).all():
            raise CmrmError("The offsets hold values that are not finite; compute them again.")

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

    def save(self, path: str | Path) -> None:
        """Write a safetensors file whose header says what the offsets fit and how they were made.

        Written beside and renamed, so that a failure leaves no half-made file.

        Raises:
            CmrmError: the file can't be written there.
        """
        path = Path(path)
        header = {"format": FORMAT, "fits": asdict(self.fits), "origin": asdict(self.origin)}
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
            os.close(handle)
            save_file({"offsets": self.values.contiguous()}, temporary, {"cmrm": json.dumps(header)})
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            raise CmrmError(
                f"The offsets could not be written to {str(path)!r} ({error}); choose another place."
            ) from error
        finally:
            if temporary and os.path.exists(temporary):
                os.unlink(temporary)

    @classmethod
    def load(cls, path: str | Path) -> "Offsets":
        """Read a file that `save` wrote.

        Raises:
            CmrmError: no such file, a truncated one, or one that holds no CMRM offsets.
        """
        path = Path(path)
        if not path.is_file():
            raise CmrmError(f"There is no offsets file {str(path)!r}; check the path or run `python -m cmrm extract`.")
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["cmrm"])
                if header["format"] != FORMAT:
                    raise CmrmError(
                        f"{str(path)!r} has format {header['format']}, but {FORMAT} is read; extract again."
                    )
                return cls(file.get_tensor("offsets"), _read(Identity, header["fits"]), _read(Origin, header["origin"]))
        except CmrmError:
            raise
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise CmrmError(
                f"{str(path)!r} is no whole CMRM offsets file (truncated, or of another kind); "
                "run `python -m cmrm extract` to make a new one."
            ) from error


def _read(kind: type, values: dict[str, Any]) -> Any:
    """Build a dataclass from header values, each of the type that its field's default or use has."""
    made = kind(**values)
    for entry in dataclasses.fields(kind):
        if not isinstance(getattr(made, entry.name), (str, int, dict)):
            raise TypeError(f"{entry.name} in the header is of the wrong type")
    return made
