"""The page and the API: a Gradio app over one workbench, in which visitors share nothing but the model."""

from .compare import EXAMPLES
from .page import build
from .requests import UPDATES_PER_SECOND, Request, answer, explain_answers, measure, parse_request

__all__ = [
    "EXAMPLES",
    "UPDATES_PER_SECOND",
    "Request",
    "answer",
    "build",
    "explain_answers",
    "measure",
    "parse_request",
]
