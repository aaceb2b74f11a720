"""Token ids turned into the text of a row, as they come."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..judging.phrases import judge_by_phrases
from .steps import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class Writer:
    """Turns one row's token ids into text, holding back a half-made UTF-8 character."""

    tokenizer: "PreTrainedTokenizerBase"
    row: Row

    def add(self, tokens: Sequence[int], seconds: float) -> None:
        """Add tokens that came `seconds` after the request."""
        if not self.row.ended:
            ids = (*self.row.ids, *tokens)
            text = self._decode(ids).rstrip("\ufffd")
            self.row = replace(self.row, text=text, ids=ids, tokens=len(ids), seconds=seconds)

    def end(self) -> None:
        """Judge the row as it stands, once."""
        if not self.row.ended:
            text = self._decode(self.row.ids)
            self.row = replace(self.row, text=text, ended=True, verdict=judge_by_phrases(text))

    def _decode(self, ids: tuple[int, ...]) -> str:
        decoded: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return decoded.lstrip()
