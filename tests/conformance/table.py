"""docs/models.md: what became of each architecture, as a table that is written and read back."""

from collections.abc import Sequence
from pathlib import Path

import transformers

from .driver import PLAIN, WORKS, Result

PATH = Path(__file__).parents[2] / "docs" / "models.md"
_HEAD = """# Models

Every image-text-to-text architecture of transformers {version}, built tiny with random weights and held to what the
library promises: its decoder layers are found and confirmed, the unsteered row keeps its bits, a steered state is
state + alpha x offset, offsets can be extracted, rows decode together, no hook stays. Written by

    python -m tests.conformance

With an image {passing} of {count} work ({plain} of them by the plain batch: the whole prompt is repeated in each row,
as the model can't be prefilled once for all of them); the library rejects the others and says why.

| model type | text alone | with an image | why not |
|---|---|---|---|
"""


def write(results: Sequence[Result]) -> None:
    passing = sum(result.passes for result in results)
    plain = sum(result.image == PLAIN for result in results)
    head = _HEAD.format(version=transformers.__version__, passing=passing, count=len(results), plain=plain)
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(head + "".join(f"| {' | '.join(_row(result))} |\n" for result in results))


def committed() -> dict[str, tuple[str, str]]:
    """Read back what is said of each model type on text alone and with an image."""
    rows = [line.strip("| \n").split(" | ") for line in PATH.read_text().splitlines() if line.startswith("| ")]
    return {row[0]: (row[1], row[2]) for row in rows[1:]}


def verdicts(result: Result) -> tuple[str, str]:
    return _verdict(result.text), _verdict(result.image)


def _row(result: Result) -> tuple[str, ...]:
    reason = next((cell for cell in (result.text, result.image) if cell not in (WORKS, PLAIN)), "")
    return (result.name, *verdicts(result), reason.removeprefix("refused: ").replace("|", "/"))


def _verdict(cell: str) -> str:
    return cell if cell in (WORKS, PLAIN) else "rejected"
