"""CMRM steering of vision-language models: offsets computed, cached and applied through hooks."""

import importlib
from typing import TYPE_CHECKING, Any

from .errors import CmrmError, CmrmWarning

if TYPE_CHECKING:
    from .comparison import Row, Step, compare
    from .extraction import extract_offsets, many_prompt_offsets, prompt_offsets
    from .model import Vlm
    from .offsets import Offsets
    from .steering import PerRow, Steering, steer

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
    "comparison": ("Row", "Step", "compare"),
    "extraction": ("extract_offsets", "many_prompt_offsets", "prompt_offsets"),
    "model": ("Vlm",),
    "offsets": ("Offsets",),
    "steering": ("PerRow", "Steering", "steer"),
}


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that `import cmrm` costs no torch."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
