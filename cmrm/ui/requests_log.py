"""One JSON line a request: its settings, tokens, times and outcome, never its prompt, image or answers."""

import json
import logging
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

from ..answering.comparison import Row, Step
from ..errors import CmrmError

T = TypeVar("T")

_log = logging.getLogger("cmrm.requests")


def to_standard_error() -> None:
    """Let the lines be seen; a program that sets up logging itself needs no call."""
    _log.addHandler(logging.StreamHandler(sys.stderr))
    _log.setLevel(logging.INFO)
    _log.propagate = False


def logged(request: str, steps: Iterator[T], /, **settings: Any) -> Iterator[T]:
    """Pass on what a request streams, and log how it ended: done, stopped by its caller, refused or failed."""
    start, first, outcome = time.perf_counter(), None, "failed"
    rows: tuple[Row, ...] = ()
    try:
        for step in steps:
            if isinstance(step, Step):
                first, rows = first or time.perf_counter() - start, step.rows
            yield step
        outcome = "done"
    except GeneratorExit:
        outcome = "stopped"
        raise
    except CmrmError:
        outcome = "refused"
        raise
    finally:
        facts = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": uuid.uuid4().hex[:12],
            "request": request,
            **{name: _harmless(value) for name, value in settings.items()},
            "tokens": [row.tokens for row in rows],
            "verdicts": [row.verdict for row in rows],
            "first_token_seconds": None if first is None else round(first, 3),
            "seconds": round(time.perf_counter() - start, 3),
            "outcome": outcome,
        }
        _log.info(json.dumps(facts))


def _harmless(value: Any) -> Any:
    """Settings come unchecked: what is no number, no list of them and no short word is named by its type alone."""
    if isinstance(value, tuple):
        return [_harmless(one) for one in value]
    if value is None or (isinstance(value, (int, float)) and abs(value) < 2**63):
        return value
    if isinstance(value, float):
        return str(value)  # JSON has no NaN
    return value if isinstance(value, str) and len(value) < 12 and value.isalnum() else type(value).__name__
