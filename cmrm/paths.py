"""Where the files that ship with the project are, and those that it makes."""

import os
from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"
POCKET = ASSETS / "pocket"


def cache_folder() -> Path:
    """Return where offsets and pictures are kept: $CMRM_CACHE, or `cmrm` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cmrm"
    return Path(os.environ.get("CMRM_CACHE") or default)
