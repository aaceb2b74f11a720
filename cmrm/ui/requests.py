"""What is asked of the workbench: made typed as it comes in, and answered by paced, logged streams."""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from ..answering.steps import Step
from ..errors import CmrmError
from ..explaining.explanation import Explanation
from ..progress import Progress
from ..settings import Settings, check_prompt, parse_alphas
from ..steering.offsets import Offsets
from ..workbench import Workbench
from .gradio_private import find_upload
from .requests_log import log_request

Item = TypeVar("Item")
Result = TypeVar("Result")

Kind = Literal["compare", "sweep", "explain"]

UPDATES_PER_SECOND = 12
MOST_ROWS = 64
MOST_ANCHORS = 512
UNEXPECTED = "Something went wrong inside the app, and not by your fault; its log has the details, please try again."

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """A checked request: `image` is the path of an upload, and a sweep has `alphas`.

    `offsets` are a visitor's own, to take the place of the dataset-level ones.
    """

    image: str | None
    prompt: str
    settings: Settings
    offsets: Offsets | None = None
    alphas: tuple[float, ...] | None = None

    @property
    def facts(self) -> dict[str, object]:
        """Return what may be logged: all but the image, the prompt and the offsets."""
        swept = {} if self.alphas is None else {"alpha": self.alphas}
        return {**self.settings.json(), **swept, "image": self.image is not None}


def parse_request(
    kind: Kind,
    image: object,
    prompt: object,
    choices: Mapping[str, object],
    offsets: Offsets | None = None,
    alphas: object = None,
) -> Request:
    """Read a request as the page and the API have it, the settings by name; `alphas` is the text of a sweep.

    Raises:
        CmrmError: what no model could answer, which is logged.
    """
    try:
        swept = _parse_range(alphas) if kind == "sweep" else None
        picture = None if image is None else require_upload(image, "image")
        settings = Settings.parse(**choices)
        check_prompt(prompt)
        return Request(picture, str(prompt), settings, offsets, swept)
    except CmrmError as error:
        swept_too = {"alpha": alphas} if kind == "sweep" else {}
        with log_request(kind, {**choices, **swept_too, "image": image is not None}):
            raise error


def answer(bench: Workbench, request: Request) -> Generator[Step]:
    """Stream the answers, at a pace that a page can follow; close it to stop the model.

    Raises:
        CmrmError: bad input; also for any other failure, whose details go to the log.
    """
    with _supervise("compare" if request.alphas is None else "sweep", request.facts) as see:
        yield from _pace(_answers(bench, request), lambda step: see(step).done)


def _answers(bench: Workbench, request: Request) -> Generator[Step]:
    if request.alphas is None:
        return bench.compare(request.image, request.prompt, request.settings, request.offsets)
    return bench.sweep(request.image, request.prompt, request.alphas, request.settings, request.offsets)


def explain_answers(
    bench: Workbench, request: Request, answers: Sequence[Sequence[int]] | None = None
) -> Generator[Progress, None, Explanation]:
    """Return why the answers differ, after progress; close it to stop the model.

    Raises:
        CmrmError: bad input; also for any other failure, whose details go to the log.
    """
    with _supervise("explain", request.facts):
        return (yield from bench.explain(request.image, request.prompt, request.settings, request.offsets, answers))


def measure(bench: Workbench, texts: object, choices: Mapping[str, object]) -> Generator[Progress, None, Offsets]:
    """Return offsets measured on anchor texts, by settings of `MEASURED`, after progress; close it to stop the model.

    Raises:
        CmrmError: bad input; also for any other failure, whose details go to the log.
    """
    count = len(texts) if isinstance(texts, (list, tuple)) else None
    with _supervise("extract", {"anchors": count, **choices}):
        passes = bench.extract(_check_anchors(texts), Settings.parse(**choices))
        return (yield from _pace(passes, is_last=lambda _: False))


def open_upload(bench: Workbench, file: object) -> Offsets:
    """Return a visitor's offsets, from a file as Gradio hands it on, to steer the model by.

    Raises:
        CmrmError: no file, or one that the model can't be steered by.
    """
    with name_upload(file, "offsets") as path, replace_unexpected("open failed."):
        return bench.open_offsets(path)


def require_upload(value: object, what: str) -> str:
    """Return the path of an upload, as Gradio hands it on; nothing else passes.

    Raises:
        CmrmError: no upload.
    """
    path = find_upload(value)
    if path is None:
        raise CmrmError(
            f"The {what} must be a file: upload one, or pass gradio_client.handle_file(path) as the {what}.",
            what,
        )
    return path


@contextmanager
def name_upload(value: object, what: str) -> Iterator[str]:
    """Give an upload's path, and in errors its name alone: where the server keeps it is nobody's business."""
    path = require_upload(value, what)
    try:
        yield path
    except CmrmError as error:
        raise CmrmError(str(error).replace(path, Path(path).name)) from error


@contextmanager
def replace_unexpected(sentence: str) -> Iterator[None]:
    """Let no error through but those that say what to do; any other is logged with a `sentence`."""
    try:
        yield
    except CmrmError:
        raise
    except Exception as error:
        _log.exception(sentence)
        raise CmrmError(UNEXPECTED) from error


@contextmanager
def _supervise(kind: str, facts: Mapping[str, object]) -> Iterator[Callable[[Step], Step]]:
    """Log a request, and replace its unexpected errors."""
    with replace_unexpected(f"{kind} failed."), log_request(kind, facts) as see:
        yield see


def _pace(stream: Generator[Item, None, Result], is_last: Callable[[Item], bool]) -> Generator[Item, None, Result]:
    """Pass on what a page can follow, and the last, and return what the stream returns.

    Where showing takes long, as it does for many visitors at once, less is shown: a fifth of the time goes there. What
    was held back is shown before the stream's fault.
    """
    shown, pause = 0.0, 1 / UPDATES_PER_SECOND
    held: list[Item] = []
    with closing(stream):
        while True:
            try:
                item = next(stream)
            except StopIteration as end:
                return end.value
            except Exception:
                yield from held
                raise
            begin, held, last = time.monotonic(), [item], is_last(item)
            if last or begin - shown >= pause:
                yield item
                held.clear()
                shown = time.monotonic()
                pause = max(1 / UPDATES_PER_SECOND, 4 * (shown - begin))


def _check_anchors(texts: object) -> Sequence[str]:
    if not isinstance(texts, (list, tuple)):
        raise CmrmError("anchors is no list of texts; give a list of short requests.")
    if len(texts) > MOST_ANCHORS:
        raise CmrmError(f"There are {len(texts)} anchors, but at most {MOST_ANCHORS} are measured here; give fewer.")
    for number, text in enumerate(texts, 1):
        try:
            check_prompt(text)
        except CmrmError as error:
            raise CmrmError(f"Anchor {number} can't be read: {error}") from error
    return texts


def _parse_range(alphas: object) -> tuple[float, ...]:
    if not isinstance(alphas, str):
        raise CmrmError(f"alphas is {alphas!r}, but it must be a text such as '0:2:0.25' or '0.5,1,1.5'.")
    parsed = parse_alphas(alphas)
    if len(parsed) > MOST_ROWS:
        raise CmrmError(f"There are {len(parsed)} alphas, but one sweep has at most {MOST_ROWS}; give fewer.")
    return parsed
