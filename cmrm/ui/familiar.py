"""What the pocket model can't know, which is said before it answers."""

from filecmp import cmp

from ..pocket.vocabulary import unknown_words
from ..settings import MAX_CHARACTERS
from ..workbench import Workbench
from . import html
from .examples import EXAMPLES
from .gradio_private import find_upload
from .view import needs_veil


def find_unknown(bench: Workbench, prompt: object) -> tuple[str, ...]:
    """Return words that the model never saw; none of a real model."""
    if needs_veil(bench) or not isinstance(prompt, str) or len(prompt) > MAX_CHARACTERS:
        return ()
    return unknown_words(prompt, bench.engine.tokenizer)


def is_unfamiliar(bench: Workbench, image: object) -> bool:
    """Whether an upload, as Gradio has it, is a picture of the visitor's own beside the pocket model."""
    path = find_upload(image)
    if path is None or needs_veil(bench):
        return False
    return not any(cmp(path, shipped) for shipped in {one.path for one in EXAMPLES})


def write_warning(bench: Workbench, image: object, prompt: object) -> str:
    """Return what a visitor should know before a run."""
    unknown, unfamiliar = find_unknown(bench, prompt), is_unfamiliar(bench, image)
    sentences = [f"The pocket model doesn't know: {', '.join(unknown)}."] * bool(unknown)
    sentences += ["It was taught on drawn shapes alone, so of your own picture it can tell nothing true."] * unfamiliar
    return html.parts.hint_box(" ".join(sentences), html.REAL_MODEL)
