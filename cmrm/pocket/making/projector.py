"""The projector, solved rather than trained: from what the tower sees to the words the decoder knows."""

import random

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import LlavaForConditionalGeneration

from .. import scenes
from .vision import look_at


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
