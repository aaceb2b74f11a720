"""A user's prompt, made safe for the chat template: no image token or chat marker survives in it."""

import re
from collections.abc import Iterable
from typing import Any

from ..errors import CmrmError

PROMPT_MARK = "\u241fprompt\u241f"


def check_length(context: int | None, prompt: int, new: int = 0) -> None:
    """Raise `CmrmError` if a prompt of `prompt` tokens and `new` more don't fit a model's context (None: no bound)."""
    if context is not None and (over := prompt + new - context) > 0:
        what = f"The prompt and {new} new tokens take" if new else "The prompt takes"
        remedy = "shorten the prompt or ask for fewer tokens" if new else "shorten it"
        raise CmrmError(
            f"{what} {prompt + new:,} tokens, {over:,} more than the model's context of {context:,}; {remedy}."
        )


def template_markers(processor: Any) -> tuple[str, ...]:
    """Return the strings that steer the chat layout, as `breakable`: special tokens, and the template's own words."""
    markers = {token.content for token in processor.tokenizer.added_tokens_decoder.values()}
    markers.update(getattr(processor, name, None) or "" for name in ("image_token", "video_token", "audio_token"))
    turn = [{"role": "user", "content": [{"type": "text", "text": PROMPT_MARK}]}]
    layout = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    # A role's name such as "USER:" is a marker; a plain word of a system prompt is none.
    markers.update(piece for piece in layout.replace(PROMPT_MARK, " ").split() if re.search(r"[:<>|\[\]]", piece))
    return breakable(markers)


def breakable(markers: Iterable[str]) -> tuple[str, ...]:
    """Return what `neutralise` breaks of each marker: its text without the space around it, if that is no character.

    Longest first, so that one which holds another is met before it.
    """
    stripped = {marker.strip() for marker in markers}
    return tuple(sorted((marker for marker in stripped if len(marker) > 1), key=len, reverse=True))


def neutralise(prompt: str, markers: tuple[str, ...]) -> str:
    """Break each of the `breakable` markers inside the prompt by a space before its last character."""
    before = ""
    while before != prompt:  # what breaks one marker may make another, with one more space in it
        before = prompt
        for marker in markers:
            prompt = prompt.replace(marker, f"{marker[:-1]} {marker[-1]}")
    return prompt
