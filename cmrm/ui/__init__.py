"""The page and the API: a Gradio app over one workbench, in which visitors share nothing but the model."""

from .page import build
from .requests import UPDATES_PER_SECOND, Request, answer, explain_answers, parse_request

__all__ = ["UPDATES_PER_SECOND", "Request", "answer", "build", "explain_answers", "parse_request"]
