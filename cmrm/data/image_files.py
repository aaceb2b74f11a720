"""The picture of a row: a file named there, bytes held there, or one given for all that have none."""

import hashlib
import os
from pathlib import Path

from PIL import Image

from ..errors import CmrmError
from ..files import cache_folder, write_whole
from .files import RawRecord
from .records import Picture

_BLANK = (336, 336)


class Pictures:
    """Finds pictures below `images`, a folder, and beside the data file; `images` may also be one picture.

    One picture (`given`) stands beside every record that has none of its own.

    Raises:
        CmrmError: there is nothing at `images`.
    """

    def __init__(self, images: Path | None) -> None:
        if images is not None and not images.exists():
            raise CmrmError(f"There is no folder or picture {str(images)!r}; check what `images` names.")
        self.given = images if images is not None and images.is_file() else None
        self.folder = images if images is not None and images.is_dir() else None
        self._blank = Image.new("RGB", _BLANK, "white")

    @property
    def given_or_blank(self) -> Picture:
        """What texts are shown beside: the picture given, else a white one."""
        return self.given or self._blank

    def own(self, raw: RawRecord, value: object) -> Path | None:
        """Return the picture that a column holds: a path, bytes, or both as the hub's parquet files do; None if empty.

        Bytes are kept in a file of the project's cache, so that they don't stay in memory.

        Raises:
            CmrmError: no such file, or a value of another kind.
        """
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if not value:
            return None
        if isinstance(value, bytes):
            return _store(value)
        if not isinstance(value, str):
            raise raw.fault("its image is neither a path nor the bytes of a picture; give one of them.")
        return self.find(raw, value)

    def find(self, raw: RawRecord, *names: str) -> Path:
        """Return the first of `names` that is a file.

        Raises:
            CmrmError: none is; addresses of the web are never fetched.
        """
        for place in self.places(raw):
            for name in names:
                if os.path.isfile(place / name):
                    return place / name
        places = " or ".join(repr(str(place)) for place in self.places(raw))
        raise raw.fault(
            f"there is no picture {names[0][:200]!r} in {places}; download it and name its folder as `images`."
        )

    def places(self, raw: RawRecord) -> list[Path]:
        """Return the folders where pictures are looked for."""
        return [*([self.folder] if self.folder else []), raw.file.parent]


def _store(content: bytes) -> Path:
    path = cache_folder() / "pictures" / hashlib.sha256(content).hexdigest()
    if not path.is_file():
        try:
            write_whole(path, content)
        except OSError as error:
            raise CmrmError(
                f"A picture could not be kept in {str(path.parent)!r} ({error}); set CMRM_CACHE to another folder."
            ) from error
    return path
