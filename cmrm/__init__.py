"""CMRM steering of vision-language models: offsets computed, cached and applied through hooks."""

import importlib
from typing import TYPE_CHECKING, Any

from .errors import CmrmError, CmrmWarning

if TYPE_CHECKING:
    from .answering.comparison import compare
    from .answering.steps import Row, Step
    from .engines.local import LocalEngine
    from .model.vlm import Vlm
    from .settings import Settings
    from .steering.extraction import extract_each, extract_offsets
    from .steering.offsets import Offsets
    from .steering.steer import Steering, steer
    from .steering.vectors import Vectors

__all__ = [
    "CmrmError",
    "CmrmWarning",
    "LocalEngine",
    "Offsets",
    "Row",
    "Settings",
    "Steering",
    "Step",
    "Vectors",
    "Vlm",
    "compare",
    "extract_each",
    "extract_offsets",
    "steer",
]

_HOMES = {
    "answering.comparison": ("compare",),
    "answering.steps": ("Row", "Step"),
    "engines.local": ("LocalEngine",),
    "model.vlm": ("Vlm",),
    "settings": ("Settings",),
    "steering.extraction": ("extract_each", "extract_offsets"),
    "steering.offsets": ("Offsets",),
    "steering.steer": ("Steering", "steer"),
    "steering.vectors": ("Vectors",),
}


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that `import cmrm` costs no torch."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
