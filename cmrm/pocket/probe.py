"""Many requests to the pocket model at once, in left-padded batches: what tuning and evaluation run on."""

import copy
from collections.abc import Iterable, Sequence

import torch
from transformers import DynamicCache

from ..model import Vlm
from ..options import Steps
from ..records import Record
from ..steering import Steering, steer

LONGEST = 64


class Probe:
    """Records that were prefilled once up to the last prompt token, to be answered many times."""

    def __init__(self, vlm: Vlm, chosen: Sequence[Record], with_image: bool = True) -> None:
        self.vlm, self.records = vlm, list(chosen)
        coded = [vlm.encode(r.prompt, r.image if with_image else None) for r in self.records]
        width = max(c["input_ids"].shape[1] for c in coded)
        pad = vlm.model.generation_config.pad_token_id
        self.ids = torch.full((len(coded), width), pad)
        self.mask = torch.zeros_like(self.ids)
        for row, code in enumerate(coded):
            length = code["input_ids"].shape[1]
            self.ids[row, width - length :] = code["input_ids"][0]
            self.mask[row, width - length :] = 1
        pictures = [c["pixel_values"] for c in coded if "pixel_values" in c]
        extra = {"pixel_values": torch.cat(pictures)} if pictures else {}
        self.past = DynamicCache(config=vlm.model.config.get_text_config(decoder=True))
        with torch.no_grad():
            vlm.model(
                input_ids=self.ids[:, :-1],
                attention_mask=self.mask[:, :-1],
                past_key_values=self.past,
                logits_to_keep=1,
                **extra,
            )

    def first(self, steering: Steering, alpha: float, layers: Iterable[int] | None) -> list[int]:
        """The first answer token of each record."""
        with steer(self.vlm, steering, alpha, layers=layers), torch.no_grad():
            out = self.vlm.model(input_ids=self.ids[:, -1:], attention_mask=self.mask, past_key_values=self.past)
        self.past.crop(-1)
        return out.logits[:, -1].argmax(-1).tolist()

    def answers(
        self,
        steering: Steering | None = None,
        alpha: float = 1.0,
        layers: Iterable[int] | None = None,
        steps: Steps = "prompt",
    ) -> list[str]:
        """Whole greedy answers, unsteered for None."""
        past, mask, feed = copy.deepcopy(self.past), self.mask, self.ids[:, -1:]
        end = self.vlm.model.generation_config.eos_token_id
        end = end[0] if isinstance(end, list) else end
        said: list[torch.Tensor] = []
        going = torch.ones(len(mask), dtype=torch.bool)
        for step in range(LONGEST):
            with torch.no_grad():
                if steering is not None and (step == 0 or steps == "all"):
                    with steer(self.vlm, steering, alpha, layers=layers, steps=steps):
                        out = self.vlm.model(input_ids=feed, attention_mask=mask, past_key_values=past)
                else:
                    out = self.vlm.model(input_ids=feed, attention_mask=mask, past_key_values=past)
            token = out.logits[:, -1].argmax(-1).masked_fill(~going, end)
            going &= token != end
            said.append(token)
            if not going.any():
                break
            feed, mask = token[:, None], torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        texts = torch.stack(said, 1)
        decoded: list[str] = self.vlm.processor.tokenizer.batch_decode(texts, skip_special_tokens=True)
        return [text.lstrip() for text in decoded]
