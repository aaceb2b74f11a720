"""Where the files that ship with the project are."""

from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"
POCKET = ASSETS / "pocket"
