"""What is asked of the workbench, as it came in, and the paced, logged streams that answer it."""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradio_client.utils import is_file_obj_with_meta

from ..answering.comparison import Step
from ..answering.explain import Explanation
from ..errors import CmrmError
from ..model.prompts import check_prompt
from ..settings import parse_alphas, parse_layers
from ..steering.offsets import Offsets
from ..workbench import Workbench
from .requests_log import logged

UPDATES_PER_SECOND = 12
LENGTH = 128
MOST_ROWS = 64
MOST_ANCHORS = 512
UNEXPECTED = "Something went wrong inside the app, and not by your fault; its log has the details, please try again."

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ask:
    """One request as it came in, by the names of the API; nothing in it is checked yet.

    A tuple of alphas asks for a sweep, and an empty text leaves a setting to the recipe. `offsets` are a visitor's
    own, to take the place of the dataset-level ones.
    """

    image: Any
    prompt: Any
    alpha: Any
    method: Any
    max_new_tokens: Any
    temperature: Any = 0.0
    seed: Any = 0
    top_p: Any = 1.0
    estimator: Any = ""
    corruption: Any = ""
    layers: Any = ""
    positions: Any = ""
    steps: Any = ""
    third: Any = "none"
    offsets: Offsets | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Return what may be logged: all but the image, the prompt and the offsets."""
        return {**self._known(), "image": self.image is not None}

    @property
    def options(self) -> dict[str, Any]:
        """Return the settings as `Workbench.compare` takes them.

        Raises:
            CmrmError: a text that names no layers.
        """
        known = {name: None if value == "" else whole(value) for name, value in self._known().items()}
        if isinstance(known["layers"], str):
            known["layers"] = parse_layers(known["layers"])
        return {**known, "offsets": self.offsets}

    def _known(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("image", "prompt", "offsets")}


@dataclass(frozen=True)
class Progress:
    """Forward passes done and in all, and about how many seconds are left, as far as it is known."""

    done: int
    total: int
    left: float | None

    def __str__(self) -> str:
        """Say so."""
        left = "" if self.left is None else f", about {self.left:.0f} s left"
        return f"Pass {self.done} of {self.total}{left} ..."


def answer(bench: Workbench, ask: Ask) -> Iterator[Step]:
    """Stream the comparison, at a pace that a page can follow; close it to stop the model.

    Raises:
        CmrmError: bad input; also for any other failure, whose details go to the log.
    """
    request = "sweep" if isinstance(ask.alpha, tuple) else "compare"
    with _expected(request):
        yield from logged(request, _paced(_asked(bench, ask)), **ask.settings)


def explanation(
    bench: Workbench, ask: Ask, answers: Sequence[Sequence[int]] | None = None
) -> Iterator[str | Explanation]:
    """Stream why the answers differ, sentences on the progress first; close it to stop the model.

    Raises:
        CmrmError: bad input; also for any other failure, whose details go to the log.
    """
    with _expected("explain"):
        yield from logged("explain", _explained(bench, ask, answers), **ask.settings)


def measurement(
    bench: Workbench, texts: Any, estimator: Any = None, corruption: Any = None
) -> Iterator[Progress | Offsets]:
    """Stream the measuring of offsets on anchor texts, the offsets last; close it to stop the model.

    Raises:
        CmrmError: bad input; also for any other failure, whose details go to the log.
    """
    count = len(texts) if isinstance(texts, (list, tuple)) else None
    with _expected("extract"):
        stream = _measured(bench, texts, estimator, corruption)
        yield from logged("extract", stream, anchors=count, estimator=estimator, corruption=corruption)


def _measured(bench: Workbench, texts: Any, estimator: Any, corruption: Any) -> Iterator[Progress | Offsets]:
    if not isinstance(texts, (list, tuple)):
        raise CmrmError("anchors is no list of texts; give a list of short requests.")
    if len(texts) > MOST_ANCHORS:
        raise CmrmError(f"There are {len(texts)} anchors, but at most {MOST_ANCHORS} are measured here; give fewer.")
    for number, text in enumerate(texts, 1):
        try:
            check_prompt(text)
        except CmrmError as error:
            raise CmrmError(f"Anchor {number} can't be read: {error}") from error
    first = shown = 0.0
    for found in bench.extracting(texts, estimator=estimator, corruption=corruption):
        now = time.monotonic()
        if isinstance(found, Offsets):
            yield found
        elif now - shown >= 1 / UPDATES_PER_SECOND:
            (done, total), shown, first = found, now, first or now
            yield Progress(done, total, (now - first) / (done - 1) * (total - done) if done > 1 else None)


def opened(bench: Workbench, file: Any) -> Offsets:
    """Return a visitor's offsets, from a file as Gradio hands it on, to steer the model by.

    Raises:
        CmrmError: no file, or one that the model can't be steered by.
    """
    path = uploaded(file, "offsets")
    with named(path), _expected("open"):
        return bench.opened(path)


@contextmanager
def named(path: str) -> Iterator[None]:
    """Call a file in errors as its owner does: where the server keeps it is nobody's business."""
    try:
        yield
    except CmrmError as error:
        raise CmrmError(str(error).replace(path, Path(path).name)) from error


@contextmanager
def _expected(what: str) -> Iterator[None]:
    """Let no error through but those that say what to do."""
    try:
        yield
    except CmrmError:
        raise
    except Exception as error:
        _log.exception("%s failed.", what)
        raise CmrmError(UNEXPECTED) from error


def _asked(bench: Workbench, ask: Ask) -> Iterator[Step]:
    image, options = _picture(ask.image), ask.options
    if isinstance(ask.alpha, tuple):
        some = {name: options[name] for name in ("method", "max_new_tokens", "offsets")}
        yield from bench.sweep(image, ask.prompt, ask.alpha, **some)
    else:
        yield from bench.compare(image, ask.prompt, **options)


def _explained(bench: Workbench, ask: Ask, answers: Sequence[Sequence[int]] | None) -> Iterator[str | Explanation]:
    drawn = ("temperature", "top_p", "seed", "third")
    options = {name: value for name, value in ask.options.items() if name not in drawn}
    yield from bench.explain(_picture(ask.image), ask.prompt, answers=answers, **options)


def _picture(value: Any) -> str | None:
    return None if value is None else uploaded(value, "image")


def uploaded(value: Any, what: str) -> str:
    """Return the path of an upload; Gradio has checked that a marked file is one, so nothing else passes.

    Raises:
        CmrmError: no upload.
    """
    if not is_file_obj_with_meta(value):
        raise CmrmError(
            f"The {what} must be a file: upload one, or pass gradio_client.handle_file(path) as the {what}."
        )
    return str(value["path"])


def whole(value: Any) -> Any:
    """Return 64 for 64.0, which JSON makes no difference between, and anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def parsed_range(alphas: Any) -> tuple[float, ...]:
    """Return the alphas of a sweep that a text names.

    Raises:
        CmrmError: no such text, or too many.
    """
    if not isinstance(alphas, str):
        raise CmrmError(f"alphas is {alphas!r}, but it must be a text such as '0:2:0.25' or '0.5,1,1.5'.")
    parsed = parse_alphas(alphas)
    if len(parsed) > MOST_ROWS:
        raise CmrmError(f"There are {len(parsed)} alphas, but one sweep has at most {MOST_ROWS}; give fewer.")
    return parsed


def _paced(steps: Iterable[Step]) -> Iterator[Step]:
    shown = 0.0
    for step in steps:
        now = time.monotonic()
        if step.done or now - shown >= 1 / UPDATES_PER_SECOND:
            shown = now
            yield step
