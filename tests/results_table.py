"""Put the table of an evaluation into docs/results.md and README.md: `python tests/results_table.py results/table.md`.

The table is split into narrow ones, so that no page scrolls sideways; no figure is changed.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
README, RESULTS = ROOT / "README.md", ROOT / "docs" / "results.md"

Table = dict[str, dict[str, str]]

REQUESTS = ("harmful refused", "harmful complied", "harmful broken", "harmless refused", "harmless broken")
REST = ("questions right", "harmful opening", "harmless opening", "log-probability", "time")
CURVES = re.compile(r"(dataset|sample)-level, (alpha .*|.* of layers|all layers)")
SHORT_ROWS = ("unsteered", "text only", "dataset-level", "sample-level", "refusal direction, restored")
SHORT_COLUMNS = ("harmful refused", "harmless refused", "questions right", "time")


def read_tables(text: str) -> Iterator[Table]:
    """Yield each Markdown table: its rows by their first cell, each by the names of the columns."""
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        names, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()]
        yield {row[0]: dict(zip(names[1:], row[1:], strict=True)) for row in rows}


def read_results() -> Table:
    """Return all rows of docs/results.md, each with all its columns."""
    rows: Table = {}
    for table in read_tables(RESULTS.read_text(encoding="utf-8")):
        for name, cells in table.items():
            rows.setdefault(name, {}).update(cells)
    return rows


def write_table(rows: Table, names: Iterable[str], columns: Iterable[str]) -> str:
    columns = list(columns)
    lines = [[name, *(rows[name][column] for column in columns)] for name in names]
    return "\n".join(
        f"| {' | '.join(line)} |" for line in [["condition", *columns], ["---"] * (1 + len(columns)), *lines]
    )


def replace_part(path: Path, mark: str, part: str) -> None:
    """Put a part between the comments `mark` and `end` of a file."""
    text = path.read_text(encoding="utf-8")
    found = re.compile(rf"(<!-- {mark} -->\n\n).*?(\n\n<!-- end -->)", re.DOTALL)
    assert len(found.findall(text)) == 1, f"{path.name} has no place for {mark!r}"
    path.write_text(found.sub(lambda place: place[1] + part + place[2], text), encoding="utf-8")


def main(source: Path) -> None:
    text = source.read_text(encoding="utf-8")
    rows = next(table for table in read_tables(text) if "unsteered" in table)
    curves = [name for name in rows if CURVES.fullmatch(name)]
    others = [name for name in rows if name not in curves]
    for group, names in (("conditions", others), ("curves", curves)):
        replace_part(RESULTS, f"{group}: requests", write_table(rows, names, REQUESTS))
        replace_part(RESULTS, f"{group}: the rest", write_table(rows, names, REST))
    replace_part(RESULTS, "notes", "\n\n".join(re.findall(r"^(?:n: |Agreement of ).*", text, re.MULTILINE)))
    replace_part(README, "results", write_table(rows, SHORT_ROWS, SHORT_COLUMNS))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
