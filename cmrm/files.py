"""Where the files that ship with the project are, and those that it makes."""

import os
import tempfile
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / "assets"
# Inside the package where it is installed, beside it in a checkout.
ASSETS = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "assets"
POCKET_FOLDER = ASSETS / "pocket"


def cache_folder() -> Path:
    """Return where offsets and pictures are kept: $CMRM_CACHE, or `cmrm` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cmrm"
    return Path(os.environ.get("CMRM_CACHE") or default)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside its place and rename it, so that no failure leaves half of one.

    Raises:
        OSError: the folder can't be made, or the file not be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, half = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(half, 0o644)
        os.replace(half, path)
    except BaseException:
        os.unlink(half)
        raise
