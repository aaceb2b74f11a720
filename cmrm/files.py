"""Where the files that ship with the project are, and those that it makes."""

import hashlib
import os
import tempfile
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / "assets"
# Inside the package where it is installed, beside it in a checkout.
ASSETS = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "assets"
POCKET_FOLDER = ASSETS / "pocket"


def source_of(model: str) -> str:
    """Return what transformers calls a model: "pocket" is a folder."""
    return str(POCKET_FOLDER) if model == "pocket" else model


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


def fingerprint(folder: Path, block: int = 1 << 20) -> str:
    """Return a short SHA-256 over the checkpoint's files: whole small ones, 16 samples of large ones.

    The files are read, never the live weights, which quantization changes.
    """
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), folder / "config.json"]):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        stride = max(block, size // 16)
        with path.open("rb") as file:
            for start in range(0, size, stride):
                file.seek(start)
                digest.update(file.read(block))
    return digest.hexdigest()[:16]
