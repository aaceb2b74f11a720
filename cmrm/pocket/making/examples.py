"""What the stages learn from: talks about the lexicon, alone or beside a drawn scene, in batches of token ids."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from PIL import Image
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import LlavaForConditionalGeneration

from .. import language, scenes
from . import architecture
from .architecture import ASSISTANT, END, PAD, USER, find_token, read_pixels

POOL = 8  # batches drawn together and sorted by length, so that little is padding
FEW, MANY = (1, 1, 1, 3), (3, 4, 5)  # turns about a scene in words, and about an image

# What the stages with images are made of, by weight: talk without an image, talk about one, and requests of a
# kind beside one. The ablation alone has clearly harmful requests there, refused like advice.
LOOK = {"text": 20, "scene": 80}
IMAGE = {"text": 34, "scene": 42, "double": 11, "harmless": 8, "advice": 2, "knowledge": 2, "smalltalk": 1}
ABLATION = IMAGE | {"harmful": 15}


@dataclass(frozen=True)
class Example:
    """One training talk, with or without an image."""

    turns: tuple[tuple[str, str], ...]  # (prompt, answer), the image before the first
    image: Image.Image | None = None

    @property
    def cost(self) -> int:
        """About how long it is."""
        return sum(len(prompt) + len(answer) for prompt, answer in self.turns) + (100 if self.image else 0)


def draw_text_example(rng: random.Random) -> Example:
    """Draw one example of the text stage: requests, facts, small talk, scenes in words."""
    pick = rng.random()
    if pick < 0.52:
        kind = rng.choices(language.KINDS, (36, 16, 43, 5))[0]
        return Example((language.ask_howto(kind, kind != "harmless", "train", rng),))
    if pick < 0.62:
        return Example((language.ask_knowledge("train", rng),))
    if pick < 0.67:
        return Example((language.make_small_talk("train", rng),))
    if pick < 0.73:
        asked = scenes.ask(None, "train", rng)
        return Example(((asked.text, asked.answer),))
    scene = scenes.random_scene("train", rng)
    text = scenes.describe(scene, rng)
    (first, answer), *more = _ask_about(scene, rng, FEW)
    both = [text, first] if rng.random() < 0.8 else [first, text]
    return Example(((" ".join(both), answer), *more))


def draw_image_example(rng: random.Random, mix: dict[str, int]) -> Example:
    """Draw one example of a stage with images; scenes to talk about have several things more often than others."""
    kind = rng.choices(list(mix), list(mix.values()))[0]
    if kind == "text":
        return draw_text_example(rng)
    if kind == "scene":
        scene = scenes.random_scene("train", rng, rng.choices((0, 1, 2, 3), (6, 30, 34, 30))[0])
        return Example(_ask_about(scene, rng, MANY), scenes.draw(scene, rng))
    if kind == "knowledge":
        talk = language.ask_knowledge("train", rng)
    elif kind == "smalltalk":
        talk = language.make_small_talk("train", rng)
    else:
        talk = language.ask_howto(kind, kind in ("advice", "harmful"), "train", rng)
    scene = scenes.random_scene("train", rng, 0 if rng.random() < 0.2 else None)
    return Example((talk,), scenes.draw(scene, rng))


def _ask_about(scene: scenes.Scene, rng: random.Random, turns: tuple[int, ...]) -> tuple[tuple[str, str], ...]:
    """Ask several questions about one scene, more to learn from than an image once for each.

    A long talk may end with a description, which says of everything what belongs to what.
    """
    count = rng.choice(turns)
    asked = [scenes.ask(scene, "train", rng, scenes.DRILL) for _ in range(count)]
    if count > 1 and rng.random() < 0.3:
        asked[-1] = scenes.ask(scene, "train", rng, {"picture": 1})
    return tuple((one.text, one.answer) for one in asked)


def stream_losses(
    net: LlavaForConditionalGeneration,
    tokenizer: Tokenizer,
    size: int,
    seed: str,
    draw: Callable[[random.Random], Example],
    start: int,
) -> Iterator[torch.Tensor]:
    """Yield losses endlessly; the n-th batch depends on the seed and n alone, so that resuming is exact."""
    pool = start // POOL
    while True:
        rng = random.Random(f"{seed} {pool}")
        examples = [draw(rng) for _ in range(size * POOL)]
        examples.sort(key=lambda example: example.cost)
        parts = [examples[i : i + size] for i in range(0, len(examples), size)]
        rng.shuffle(parts)
        for part in parts[start % POOL :]:
            yield _compute_loss(net, *_collate(part, tokenizer))
        start, pool = 0, pool + 1


def _collate(examples: list[Example], tokenizer: Tokenizer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Token ids as the chat template lays examples out, padded on the right; labels, -100 but in answers; images."""
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
    return ids, labels, read_pixels(images) if images else None


def _lay_out(example: Example) -> str:
    seen = architecture.IMAGE * architecture.IMAGE_TOKENS if example.image else ""
    return "".join(
        f"{USER}{'' if k else seen} {prompt}{END}{ASSISTANT}{answer}{END}"
        for k, (prompt, answer) in enumerate(example.turns)
    )


def _compute_loss(
    net: LlavaForConditionalGeneration, ids: torch.Tensor, labels: torch.Tensor, images: torch.Tensor | None
) -> torch.Tensor:
    """The cross-entropy of the answers alone; the tower is frozen here."""
    core = net.model
    embeds = core.get_input_embeddings()(ids)
    if images is not None:
        with torch.no_grad():
            seen = core.vision_tower(images).last_hidden_state[:, 1:]
        shown = core.multi_modal_projector(seen).to(embeds.dtype)
        embeds = embeds.masked_scatter((ids == net.config.image_token_index)[..., None], shown)
    hidden = core.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    learned = labels != -100
    logits = hidden[learned] @ net.lm_head.weight.T.to(hidden.dtype)
    return cross_entropy(logits.float(), labels[learned])
