"""One driver for every architecture: build it tiny, then hold the library's shortcuts against the plain way."""

import inspect
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import tiny
import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, PreTrainedModel

from cmrm import CmrmError, LocalEngine, Vlm, compare, extract_offsets, steer
from cmrm.answering.generation import Sampling, lockstep
from cmrm.model.unusable import check_architecture, reword_errors

from . import zoo
from .exceptions import ANSWER_FLAGS, IMAGES, PATCHES, PICTURE, TOKENS

PROMPT = "Where is the cat?"
ALPHAS = (0.0, 1.0, 0.0)
ROWS = len(ALPHAS)
SAID = (30, 41, 52)  # tokens of an answer, whatever the model would say
# What models want to know of each token: whether it is of the image, or which of four tiles it may look at.
FLAGS = ("token_type_ids", "mm_token_type_ids", "image_embeds_position_mask")
TILES = "cross_attention_mask"
WORKS, PLAIN = "works", "works by the plain batch"


@dataclass(frozen=True)
class Result:
    """What became of an architecture, on text alone and beside an image: works, by the plain batch, or refused."""

    name: str
    text: str
    image: str

    @property
    def passes(self) -> bool:
        """Whether it works with an image, one way or the other."""
        return self.image.startswith("works")


class HandMade(Vlm):
    """A `Vlm` whose prompts are laid out by hand, as there is no processor for a config shrunk in memory."""

    picture: Callable[[int], dict[str, torch.Tensor]]
    tokens: int
    flags: tuple[str, ...]
    tiled: bool

    def encode(self, prompt: str, image: Image.Image | None) -> dict[str, torch.Tensor]:
        shown = [zoo.START, *[zoo.IMAGE] * self.tokens, zoo.END] if image is not None else []
        ids = torch.tensor([[1, 5, *shown, *(20 + byte % 100 for byte in prompt.encode()), 6]])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        inputs |= {flag: (ids == zoo.IMAGE).long() for flag in self.flags}
        if image is not None and self.tiled:
            inputs[TILES] = torch.tensor([1, 0, 0, 0]).expand(1, ids.shape[1], 1, -1)
        return inputs if image is None else inputs | self.picture(sum(image.resize((4, 4)).tobytes()))


def run(name: str) -> Result:
    """Build and check one architecture; what the library refuses is reported in its own words.

    Raises:
        AssertionError: the library did not refuse it, yet it does not do what it should.
    """
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    try:
        config = zoo.config(name)
        check_architecture(name, config)
        torch.manual_seed(0)
        with reword_errors(name, ""):
            model = AutoModelForImageTextToText.from_config(config)
        vlm = made(name, model)
        check(vlm, None)
    except CmrmError as error:
        return Result(name, f"refused: {error}", f"refused: {error}")
    works = PLAIN if vlm.network.plain_batch else WORKS
    try:
        check(vlm, tiny.PICTURE)
    except CmrmError as error:
        return Result(name, works, f"refused: {error}")
    return Result(name, works, works)


def made(name: str, model: PreTrainedModel) -> Vlm:
    """Wrap a tiny model, with its images made by recipe."""
    wanted = inspect.signature(model.forward).parameters
    recipe = IMAGES.get(name, PATCHES if "image_grid_thw" in wanted else {"pixel_values": PICTURE})

    def picture(seed: int) -> dict[str, torch.Tensor]:
        noise = torch.Generator().manual_seed(seed)
        return {key: _tensor(value, noise) for key, value in recipe.items()}

    with torch.no_grad():
        # Gates and projections that start at zero, or next to it, would hide the image.
        for weight in model.parameters():
            if weight.abs().max() < 1e-6:
                weight.normal_(std=0.1)
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    kind = type(
        "Laid",
        (HandMade,),
        {
            "picture": staticmethod(picture),
            "tiled": TILES in wanted,
            "flags": tuple(flag for flag in FLAGS if flag in wanted),
        },
    )
    vlm = kind(model, tiny.processor(), name=name)
    # Asked after the first whole forward: transformers ties its inert hooks to the module that runs first.
    vlm.tokens = TOKENS[name] if name in TOKENS else _feature_count(model, picture(0))
    return vlm


def _tensor(value: Any, noise: torch.Generator) -> torch.Tensor:
    return torch.rand(value, generator=noise) if isinstance(value, tuple) else torch.tensor(value)


def _feature_count(model: PreTrainedModel, picture: dict[str, torch.Tensor]) -> int:
    """Ask the model how many states its vision part makes of the image."""
    asked = model if hasattr(model, "get_image_features") else model.base_model
    with torch.no_grad():
        features = asked.get_image_features(**picture)
    pooled = getattr(features, "pooler_output", features)
    if pooled is None:
        pooled = features.last_hidden_state
    parts = pooled if isinstance(pooled, (tuple, list)) else [pooled]
    return sum(part.numel() // part.shape[-1] for part in parts)


def check(vlm: Vlm, image: Image.Image | None) -> None:
    """Hold the library to its promises on one prompt: rows, states, extraction, decoding, hooks."""
    before = vlm.network.hook_count
    inputs = vlm.encode(PROMPT, image)
    offsets = extract_offsets(LocalEngine(vlm), ["a cat", "two dogs", "hello there"], estimator="mean")
    assert abs(offsets.values).max(axis=1).min() > 0, "a layer has no offset: the image changes nothing there"

    full, states = tiny.plain(vlm, inputs)
    if image is not None:
        other, _ = tiny.plain(vlm, vlm.encode(PROMPT, Image.new("RGB", (8, 8), "red")))
        assert not torch.equal(full, other), "another image changes nothing"
    bare = _last_logits(vlm, inputs, nullcontext())
    _near(bare, full.expand_as(bare), "the batch answers otherwise than the plain forward")
    steered = _last_logits(vlm, inputs, steer(vlm, offsets, ALPHAS))
    assert torch.equal(steered[0], bare[0]), "row 0 is not bit-identical to the unhooked model"
    assert torch.equal(steered[2], steered[0]), "the row of alpha 0 differs from row 0"
    assert not torch.equal(steered[1], steered[0]), "steering changes nothing"
    for layer in {0, len(vlm.layers) // 2, len(vlm.layers) - 1}:
        _, moved = tiny.plain(vlm, inputs, steer(vlm, offsets, 1.0, layers=[layer]))
        _near(
            moved[:, layer],
            states[:, layer] + torch.from_numpy(offsets.values[layer]),
            f"layer {layer} is not at state + alpha x offset",
        )

    after = _last_logits(vlm, inputs, nullcontext(), SAID)
    whole, _ = tiny.plain(vlm, _continued(vlm, inputs))
    _near(after, whole.expand_as(after), "decoding step by step goes elsewhere than one pass over prompt and answer")
    hooks = lambda step: nullcontext() if step else steer(vlm, offsets, ALPHAS)  # noqa: E731
    rows = [
        list(step)
        for step in lockstep(
            vlm.network, inputs, ROWS, hooks=hooks, end_tokens=vlm.end_tokens, sampling=Sampling(), max_new_tokens=4
        )
    ]
    assert all(step[0] == step[2] for step in rows), "rows of alpha 0 decode differently"
    *_, last = compare(vlm, image, PROMPT, offsets, (1.0,), max_new_tokens=4)
    assert last.done, "the comparison does not end"
    assert vlm.network.hook_count == before, "hooks are left behind"


def _last_logits(vlm: Vlm, inputs: dict[str, torch.Tensor], hooks: Any, said: tuple[int, ...] = ()) -> torch.Tensor:
    """Logits behind the prompt, or behind the tokens `said` after it, in `ROWS` rows, the way the library answers."""
    context, rest = vlm.network.begin(inputs, ROWS)
    logits = vlm.network.forward(rest, context, hooks)
    for token in said:
        logits = vlm.network.forward({"input_ids": torch.full((ROWS, 1), token)}, context, nullcontext())
    return logits[:, -1]


def _continued(vlm: Vlm, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Lay out the prompt and `SAID` behind it for one pass."""
    ids = torch.cat([inputs["input_ids"], torch.tensor([SAID])], dim=1)
    longer = inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    answer = torch.full((1, len(SAID)), ANSWER_FLAGS.get(vlm.identity.model, 0))
    longer |= {flag: torch.cat([inputs[flag], answer], dim=1) for flag in FLAGS if flag in inputs}
    if TILES in inputs:
        longer[TILES] = torch.cat([inputs[TILES], inputs[TILES][:, -1:].expand(-1, len(SAID), -1, -1)], dim=1)
    return longer


def _near(one: torch.Tensor, other: torch.Tensor, what: str) -> None:
    apart = (one - other).abs().max().item()
    assert apart <= 1e-4 * max(1.0, other.abs().max().item()), f"{what} (by {apart:.1e})"
