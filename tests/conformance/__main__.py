"""Check every architecture and write docs/models.md: `python -m tests.conformance`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from conformance.driver import run
from conformance.table import PATH, write
from conformance.zoo import NAMES


def main() -> None:
    torch.set_num_threads(1)  # rows are compared bit by bit; several threads may round one unlike the next
    results = []
    for name in NAMES:
        try:
            results.append(run(name))
        except Exception as error:
            raise SystemExit(f"{name} is neither refused nor does it work: {type(error).__name__}: {error}") from error
        print(f"{len(results)}/{len(NAMES)} {name}: {results[-1].image}", file=sys.stderr)
    write(results)
    print(f"{sum(result.passes for result in results)} of {len(results)} work with an image; see {PATH}")


main()
