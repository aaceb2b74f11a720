"""Examples as batches of token ids, labels and pixels."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import LlavaForConditionalGeneration

from .architecture import ASSISTANT, END, IMAGE, IMAGE_TOKENS, PAD, USER, find_token, read_pixels
from .examples import Example

POOL = 8  # batches drawn together and sorted by length, so that little is padding


@dataclass(frozen=True)
class Batch:
    """Token ids and labels, and the images of the rows that have one."""

    ids: torch.Tensor
    labels: torch.Tensor  # -100 where nothing is to be learned
    images: torch.Tensor | None


def draw_batches(
    draw: Callable[[random.Random], Example], tokenizer: Tokenizer, size: int, seed: str, start: int
) -> Iterator[Batch]:
    """Draw endless batches; the n-th depends on the seed and n alone, so that resuming is exact."""
    pool = start // POOL
    while True:
        rng = random.Random(f"{seed} {pool}")
        examples = [draw(rng) for _ in range(size * POOL)]
        examples.sort(key=lambda example: example.cost)
        parts = [examples[i : i + size] for i in range(0, len(examples), size)]
        rng.shuffle(parts)
        for part in parts[start % POOL :]:
            yield collate(part, tokenizer)
        start, pool = 0, pool + 1


def collate(examples: list[Example], tokenizer: Tokenizer) -> Batch:
    """Lay examples out as the chat template does, padded on the right; only answers have labels."""
    coded = [code.ids for code in tokenizer.encode_batch(list(map(_lay_out, examples)))]
    ids = torch.full((len(coded), max(map(len, coded))), find_token(tokenizer, PAD))
    labels = torch.full_like(ids, -100)
    turn, end = find_token(tokenizer, ASSISTANT), find_token(tokenizer, END)
    for row, code in enumerate(coded):
        ids[row, : len(code)] = torch.tensor(code)
        start = -1
        for at, number in enumerate(code):
            if number == turn:
                start = at
            elif number == end and start >= 0:
                labels[row, start:at] = torch.tensor(code[start + 1 : at + 1])
                start = -1
    images = [example.image for example in examples if example.image]
    return Batch(ids, labels, read_pixels(images) if images else None)


def _lay_out(example: Example) -> str:
    seen = IMAGE * IMAGE_TOKENS if example.image else ""
    return "".join(
        f"{USER}{'' if k else seen} {prompt}{END}{ASSISTANT}{answer}{END}"
        for k, (prompt, answer) in enumerate(example.turns)
    )


def compute_loss(net: LlavaForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """Return the cross-entropy of the answers alone; the tower is frozen here."""
    core = net.model
    embeds = core.get_input_embeddings()(batch.ids)
    if batch.images is not None:
        with torch.no_grad():
            seen = core.vision_tower(batch.images).last_hidden_state[:, 1:]
        shown = core.multi_modal_projector(seen).to(embeds.dtype)
        embeds = embeds.masked_scatter((batch.ids == net.config.image_token_index)[..., None], shown)
    hidden = core.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    learned = batch.labels != -100
    logits = hidden[learned] @ net.lm_head.weight.T.to(hidden.dtype)
    return cross_entropy(logits.float(), batch.labels[learned])
