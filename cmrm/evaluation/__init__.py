"""Refusal, over-refusal and right answers under every method and control, for any model and data."""

from .run import Plan, run

__all__ = ["Plan", "run"]
