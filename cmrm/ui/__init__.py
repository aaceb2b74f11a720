"""The page and the API: a Gradio app over one workbench, in which visitors share nothing but the model."""

from .compare import EXAMPLES
from .page import build, launch
from .requests import UPDATES_PER_SECOND, Ask, answer, explanation

__all__ = ["EXAMPLES", "UPDATES_PER_SECOND", "Ask", "answer", "build", "explanation", "launch"]
