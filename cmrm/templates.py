"""Jinja's templates, each beside the module that fills it: every text is escaped."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, Template


def load_template(path: Path) -> Template:
    """Read a template."""
    loader = FileSystemLoader(path.parent)
    return Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(path.name)
