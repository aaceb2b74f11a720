"""One evaluation item: a prompt, perhaps a picture, and what counts as a right answer."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..errors import CmrmError
from ..images import open_image
from ..settings import Split
from .accepted import holds_answer

Picture = Image.Image | Path | bytes
LABELS = ("harmful", "harmless", "question")
DEV_SHARE = 20  # percent


@dataclass(frozen=True)
class Record:
    """A request or a question; `label` says which row of a report it belongs to."""

    id: str
    prompt: str
    picture: Picture | None
    label: str  # one of `LABELS`
    answers: tuple[str, ...] = ()
    category: str = ""

    @property
    def image(self) -> Image.Image | None:
        """The picture as upright RGB, opened anew each time, so that a large set fits into memory.

        Raises:
            CmrmError: a damaged or vanished picture; the record is named.
        """
        if self.picture is None:
            return None
        source = io.BytesIO(self.picture) if isinstance(self.picture, bytes) else self.picture
        try:
            return open_image(source)
        except CmrmError as error:
            raise CmrmError(f"Record {self.id!r}: {error}") from error

    def accepts(self, text: str) -> bool:
        """Whether `text` holds one of the accepted answers; see `cmrm.data.accepted`."""
        return holds_answer(text, self.answers)

    def digest(self) -> str:
        """Return a SHA-256 of prompt, picture and label: of a file's bytes, or of the pixels of an image in memory.

        Raises:
            CmrmError: the picture's file can't be read; the record is named.
        """
        whole = hashlib.sha256()
        for part in (self.prompt.encode(errors="surrogatepass"), self.label.encode(), self._content()):
            whole.update(hashlib.sha256(part).digest())
        return whole.hexdigest()

    def _content(self) -> bytes:
        if isinstance(self.picture, Image.Image):
            return repr(self.picture.size).encode() + self.picture.convert("RGB").tobytes()
        if isinstance(self.picture, Path):
            try:
                return self.picture.read_bytes()
            except OSError as error:
                raise CmrmError(f"Record {self.id!r}: {str(self.picture)!r} can't be read; check the file.") from error
        return self.picture or b""


def assign_split(record: Record) -> Split:
    """Return "dev" for about 20% of all records and "test" for the rest.

    It goes by `Record.digest`, so it is the same in any order and on any machine, and a record moves to
    another split only if its prompt, picture or label changes.
    """
    return "dev" if int(record.digest()[:12], 16) % 100 < DEV_SHARE else "test"
