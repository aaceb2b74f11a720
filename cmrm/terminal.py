"""What command lines share: results go to standard output, progress and messages to standard error."""

import re
import sys
from collections.abc import Callable, Sequence

import typer

from .errors import CmrmError
from .progress import Progress


def say(message: str) -> None:
    """Print a line to standard error."""
    print(message, file=sys.stderr)


_SECRET = re.compile(r"--(\w[\w-]*[-_])?(key|token|password)")


def mask_keys(arguments: Sequence[str]) -> list[str]:
    """Return a command line that can be shown and kept: without the values of options such as `--api-key`."""
    masked, secret = [], False
    for argument in arguments:
        if secret and not argument.startswith("--"):
            masked.append("***")
            continue
        name, given, _ = argument.partition("=")
        secret = _SECRET.fullmatch(name) is not None
        masked.append(f"{name}=***" if secret and given else argument)
    return masked


def report_progress(what: str) -> Callable[[Progress], None]:
    """Return a reporter that keeps one line of standard error up to date."""
    live = sys.stderr.isatty()
    tenths = 0

    def report(step: Progress) -> None:
        nonlocal tenths
        done, total = step.done, step.total
        before, tenths = tenths, 10 * done // total
        if live or tenths > before:
            print(f"{what}: {done}/{total}", end="\r" if live and done < total else "\n", file=sys.stderr, flush=True)

    return report


def run_commands(commands: typer.Typer) -> None:
    """Run a command line; bad input ends with one sentence and status 2."""
    try:
        commands()
    except CmrmError as error:
        say(f"Error: {error}")
        raise SystemExit(2) from None
