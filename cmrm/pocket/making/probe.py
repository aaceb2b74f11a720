"""Many requests to the pocket model at once, read once and answered many times: what tuning runs on."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import torch
from transformers import DynamicCache

from ...answering.batches import pad_together
from ...data.records import Record
from ...methods.defence import Added
from ...model.network import first_tokens
from ...model.vlm import Vlm
from ...steering.steer import steer

ANSWER_TOKENS = 64


class Probe:
    """Records that were read up to the last prompt token, in one left-padded batch."""

    def __init__(self, vlm: Vlm, chosen: Iterable[Record]) -> None:
        self.vlm, self.records = vlm, list(chosen)
        inputs = pad_together(vlm, [vlm.encode(record.prompt, record.image) for record in self.records])
        self.mask, self.last = inputs["attention_mask"], inputs["input_ids"][:, -1:]
        self.past = DynamicCache(config=vlm.network.config)
        with torch.no_grad():
            vlm.model(**first_tokens(inputs, self.mask.shape[1] - 1), past_key_values=self.past, logits_to_keep=1)

    def answers(self, steering: Added = None, alpha: float = 1.0, layers: Sequence[int] | None = None) -> list[str]:
        """Whole greedy answers, the last prompt token steered; unsteered for None."""
        tokens = self.tokens(steering, alpha, layers, ANSWER_TOKENS)
        decoded: list[str] = self.vlm.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [text.lstrip() for text in decoded]

    def tokens(self, steering: Added, alpha: float, layers: Sequence[int] | None, most: int) -> list[list[int]]:
        """The first tokens of each greedy answer, at most `most`, filled up with the end token."""
        feed, mask, end = self.last, self.mask, min(self.vlm.end_tokens)
        going = torch.ones(len(mask), dtype=torch.bool)
        found: list[torch.Tensor] = []
        with steer(self.vlm, steering, alpha, layers=layers) if steering else nullcontext(), torch.no_grad():
            while len(found) < most and going.any():
                logits = self.vlm.model(input_ids=feed, attention_mask=mask, past_key_values=self.past).logits
                token = logits[:, -1].argmax(-1).masked_fill(~going, end)
                going &= token != end
                found.append(token)
                feed, mask = token[:, None], torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        self.past.crop(-len(found))
        return torch.stack(found, 1).tolist()
