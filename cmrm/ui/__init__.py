"""The page and the API: a Gradio app over one workbench, in which visitors share nothing but the model."""

from .asking import UPDATES_PER_SECOND, Ask, answer, explanation
from .compare import EXAMPLES
from .serving import build, launch

__all__ = ["EXAMPLES", "UPDATES_PER_SECOND", "Ask", "answer", "build", "explanation", "launch"]
