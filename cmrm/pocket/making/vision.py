"""The tower alone, as CLIP is made before a LLaVA: it names what each patch of a scene shows; then the projector.

The projector is solved rather than trained: from what the tower sees to the words the decoder knows.
"""

import random
from collections.abc import Iterator
from itertools import count, product

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import LlavaForConditionalGeneration

from .. import scenes
from ..language import lexicon
from .architecture import PATCH, SIDE, read_pixels

# What a patch shows, and how much it counts: names are by far the hardest to see.
HEADS = {"name": 4.0, "colour": 1.0, "position": 0.5, "size": 0.5, "back": 0.3, "texture": 0.5}


def build_heads(hidden: int) -> nn.ModuleDict:
    """Build an untrained classifier of patches for each of `HEADS`."""
    names = _list_classes()
    return nn.ModuleDict({head: nn.Linear(hidden, len(names[head])) for head in HEADS})


def stream_losses(tower: nn.Module, heads: nn.ModuleDict, size: int, seed: str, start: int) -> Iterator[torch.Tensor]:
    """Yield the loss over the patches of `size` scenes, endlessly; the n-th scenes depend on the seed and n alone."""
    names = _list_classes()
    for step in count(start):
        rng = random.Random(f"{seed} {step}")
        counts = rng.choices((0, 1, 2, 3), (4, 16, 30, 50), k=size)
        shown = [scenes.random_scene("train", rng, things) for things in counts]
        seen, words = look_at(tower, shown, rng)
        loss = seen.new_zeros(())
        for head, weight in HEADS.items():
            goal = torch.tensor([names[head].index(patch.get(head, "")) for patch in words])
            loss = loss + weight * cross_entropy(heads[head](seen).float(), goal)
        yield loss


def look_at(
    tower: nn.Module, shown: list[scenes.Scene], rng: random.Random
) -> tuple[torch.Tensor, list[dict[str, str]]]:
    """Return what the tower says of each patch of drawn scenes, `(patches, hidden)`, and what the patch shows."""
    seen = tower(read_pixels([scenes.draw(scene, rng) for scene in shown])).last_hidden_state[:, 1:].flatten(0, 1)
    side = SIDE // PATCH
    places = list(product(range(side), repeat=2))
    return seen, [_describe_patch(scene, row, col, side) for scene in shown for row, col in places]


def _describe_patch(scene: scenes.Scene, row: int, col: int, side: int) -> dict[str, str]:
    """What a patch shows, in words: the thing that covers most of it, else the background."""
    best, found = 0.25 / side**2, {"back": scene.colour, "texture": scene.texture}
    if scene.texture == "blurry":
        found["back"] = ""
    for thing in scene.things:
        x, y = scenes.CENTRES[thing.position]
        r = 0.23 if thing.large else 0.168
        wide = min(x + r, (col + 1) / side) - max(x - r, col / side)
        high = min(y + r, (row + 1) / side) - max(y - r, row / side)
        if wide > 0 and high > 0 and wide * high > best:
            best = wide * high
            found |= {"name": thing.name, "colour": thing.colour, "position": thing.position}
            found["size"] = "large" if thing.large else ""
    return found


def _list_classes() -> dict[str, list[str]]:
    """What each head tells apart."""
    words = lexicon().words
    return {
        "name": ["", *words["shapes"], *words["things"]],
        "colour": ["", *words["colours"]],
        "position": ["", *words["positions"]],
        "size": ["", "large"],
        "back": ["", *words["colours"]],
        "texture": list(words["textures"]),
    }


@torch.no_grad()
def fit_projector(net: LlavaForConditionalGeneration, tokenizer: Tokenizer, seed: int) -> float:
    """Fit patch features to the sums of the words' embeddings by least squares; return R^2.

    From a random start, reading images through the projector takes tens of thousands of
    questions; from here the decoder meets words it already understands.
    """
    rng = random.Random(f"{seed} projector")
    table, projector = net.get_input_embeddings().weight, net.model.multi_modal_projector
    nn.init.orthogonal_(projector.linear_1.weight, gain=2.0)
    inputs: list[torch.Tensor] = []
    goals: list[torch.Tensor] = []
    for _ in range(40):
        shown = [scenes.random_scene("train", rng) for _ in range(96)]
        seen, patches = look_at(net.model.vision_tower, shown, rng)
        inputs.append(projector.act(projector.linear_1(seen)))
        goals += (table[_code(patch, tokenizer)].sum(0) for patch in patches)
    x, y = torch.cat(inputs), torch.stack(goals)
    x1 = torch.cat([x, torch.ones(len(x), 1)], 1)
    gram = x1.T @ x1 + 1e-3 * len(x) * torch.eye(x1.shape[1]) * x.pow(2).mean()
    solved = torch.linalg.solve(gram, x1.T @ y)
    projector.linear_2.weight.copy_(solved[:-1].T)
    projector.linear_2.bias.copy_(solved[-1])
    return 1 - ((x1 @ solved - y).pow(2).sum() / (y - y.mean(0)).pow(2).sum()).item()


def _code(patch: dict[str, str], tokenizer: Tokenizer) -> list[int]:
    """The tokens of the words for a patch."""
    if patch.get("name"):
        words = [patch["colour"], patch["name"], patch["position"].split()[-1], patch["size"]]
    else:
        words = ["background", patch["back"], patch["texture"].replace("plain", "")]
    return [tokenizer.encode(f" {word}").ids[0] for word in words if word]
