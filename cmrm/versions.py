"""The versions of the packages that decide what a model computes."""

from importlib.metadata import version


def versions(*more: str) -> dict[str, str]:
    """Return the installed versions by name, those of `more` packages too."""
    return {name: version(name) for name in ("torch", "transformers", "bitsandbytes", *more)}
