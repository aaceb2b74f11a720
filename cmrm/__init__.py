"""CMRM steering of vision-language models: offsets computed, cached and applied through hooks."""

import importlib
from typing import TYPE_CHECKING, Any

from .errors import CmrmError, CmrmWarning

if TYPE_CHECKING:
    from .answering.comparison import Row, Step, compare
    from .model.vlm import Vlm
    from .steering.extraction import extract_offsets, many_prompt_offsets, prompt_offsets
    from .steering.offsets import Offsets
    from .steering.steer import PerRow, Steering, steer

__all__ = [
    "CmrmError",
    "CmrmWarning",
    "Offsets",
    "PerRow",
    "Row",
    "Steering",
    "Step",
    "Vlm",
    "compare",
    "extract_offsets",
    "many_prompt_offsets",
    "prompt_offsets",
    "steer",
]

_HOMES = {
    "answering.comparison": ("Row", "Step", "compare"),
    "steering.extraction": ("extract_offsets", "many_prompt_offsets", "prompt_offsets"),
    "model.vlm": ("Vlm",),
    "steering.offsets": ("Offsets",),
    "steering.steer": ("PerRow", "Steering", "steer"),
}


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that `import cmrm` costs no torch."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
