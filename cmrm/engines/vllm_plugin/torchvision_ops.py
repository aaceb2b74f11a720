"""Beside a CPU build of torch: make a torchvision that was built for a GPU importable.

vLLM imports torchvision, whose Python side wants two operators of its compiled part at once. PyPI has torchvision for
CUDA alone, and beside a CPU build of torch that part does not load. Declaring the two is enough, as nothing here calls
them: images are processed in torch. A torchvision of the same build as torch, which PyTorch's own index has, needs
none of this, and gets none.
"""

import os
import re
import sys
from collections.abc import MutableMapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.library import Library

_OPERATORS = ("nms", "qnms")
_STARTUP = Path(__file__).parent / "startup"

_library: "Library | None" = None  # it lives as long as the process


class _Declare(MetaPathFinder):
    """Finds nothing: it only sees torchvision being looked for, and declares what that will ask for."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        global _library
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            _library = torch.library.Library("torchvision", "DEF")
            for name in _OPERATORS:
                _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


def declare_if_needed() -> None:
    """Declare the operators when torchvision is imported, if it was built for a GPU and torch was not."""
    waiting = _library is not None or any(isinstance(finder, _Declare) for finder in sys.meta_path)
    if needed() and not waiting and "torchvision" not in sys.modules:
        sys.meta_path.insert(0, _Declare())


def declare_in_children(environment: MutableMapping[str, str]) -> None:
    """Let Python processes that are started with `environment` do so too: vLLM looks at models in one of its own."""
    if needed():
        rest = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = str(_STARTUP) + (os.pathsep + rest if rest else "")


def needed() -> bool:
    """Whether torchvision was built for a GPU and torch was not."""
    return _built_for_gpu("torchvision") and not _built_for_gpu("torch")


def _built_for_gpu(package: str) -> bool:
    """Whether the package says so, without importing it."""
    found = find_spec(package)
    said = None if found is None or found.origin is None else Path(found.origin).with_name("version.py")
    if said is None or not said.is_file():
        return False
    return re.search(r"^__version__ = '[^']*\+(cu|rocm)", said.read_text(encoding="utf-8"), re.MULTILINE) is not None
