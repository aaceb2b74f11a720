"""What a model is: what offsets, caches and reports go by."""

import hashlib
import json
from dataclasses import asdict, dataclass

LOCAL = "local/"  # in front of a folder's name, in the place of a hub id


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
