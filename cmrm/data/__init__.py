"""Records of prompt, picture, label and category, read from files and data sets of the hub."""

from .loading import load_records

__all__ = ["load_records"]
