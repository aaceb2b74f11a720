"""One JSON line a request: its settings, tokens, times and outcome, never its prompt, image or answers."""

import json
import logging
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

from ..answering.steps import Row, Step
from ..errors import CmrmError

_log = logging.getLogger("cmrm.requests")


def log_to_standard_error() -> None:
    """Let the lines be seen; a program that sets up logging itself needs no call."""
    _log.addHandler(logging.StreamHandler(sys.stderr))
    _log.setLevel(logging.INFO)
    _log.propagate = False


@contextmanager
def log_request(request: str, settings: Mapping[str, object]) -> Iterator[Callable[[Step], Step]]:
    """Log how the block ends that answers a request: done, stopped by its caller, rejected as bad input, or failed.

    The block tells of its steps by what it is given, which returns them.
    """
    start, first, outcome = time.perf_counter(), None, "failed"
    rows: tuple[Row, ...] = ()

    def see(step: Step) -> Step:
        nonlocal first, rows
        rows = step.rows
        if first is None and any(row.tokens for row in rows):
            first = time.perf_counter() - start
        return step

    try:
        yield see
        outcome = "done"
    except GeneratorExit:
        outcome = "stopped"
        raise
    except CmrmError:
        outcome = "rejected"
        raise
    finally:
        facts = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": uuid.uuid4().hex[:12],
            "request": request,
            **{name: _clean(value) for name, value in settings.items()},
            "tokens": [row.tokens for row in rows],
            "verdicts": [row.verdict for row in rows],
            "first_token_seconds": None if first is None else round(first, 3),
            "seconds": round(time.perf_counter() - start, 3),
            "outcome": outcome,
        }
        _log.info(json.dumps(facts))


def _clean(value: object) -> object:
    """Bad input is logged too: what is no number, no list of them and no short word is named by its type alone."""
    if isinstance(value, tuple):
        return [_clean(one) for one in value]
    if value is None or (isinstance(value, (int, float)) and abs(value) < 2**63):
        return value
    if isinstance(value, float):
        return str(value)  # JSON has no NaN
    return value if isinstance(value, str) and len(value) < 12 and value.isalnum() else type(value).__name__
