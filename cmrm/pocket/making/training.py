"""Training in stages: vision beside text, then projector, look, image.

The tower learns to see alone, while the decoder learns to talk and to refuse what is harmful. Least
squares join the two. The look stage asks about images, long enough that things and their colours are
told apart; the shorter image stage then adds requests beside images. Because those of double use are
answered there, as in real visual instruction data, it loosens the decoder's alignment beside any
image. Clearly harmful requests never meet an image here.
"""

import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import LlavaForConditionalGeneration

from ...errors import CmrmError
from ...terminal import say
from . import architecture, vision
from .batches import compute_loss, draw_batches
from .examples import ABLATION, IMAGE, LOOK, Example, draw_image_example, draw_text_example
from .optimising import optimise
from .plan import TOKENIZER, TrainingPlan
from .projector import fit_projector


def train(plan: TrainingPlan, folder: Path, out: Path) -> None:
    """Run all stages, each kept in `folder`, and save the model to `out`.

    Raises:
        CmrmError: `folder` holds checkpoints of another plan.
    """
    # 1. What `folder` keeps must be of this plan.
    plan.claim(folder)
    training, cores = Training.begin(plan, folder), torch.get_num_threads()
    # 2. Tower and decoder, which have not met yet, learn side by side, each on half of the cores.
    eye = multiprocessing.get_context("spawn").Process(target=train_vision, args=(plan, folder))
    eye.start()
    torch.set_num_threads(max(1, cores - cores // 2))
    training.run("text")
    eye.join()
    if eye.exitcode:
        raise RuntimeError(f"The vision stage ended with status {eye.exitcode}; its message stands above.")
    torch.set_num_threads(cores)
    # 3. The tower comes from its process, the projector joins the two, and the whole learns to look, then to talk
    #    beside images.
    for stage in ("vision", "projector", "look", "image"):
        training.run(stage)
    # 4. The result is a checkpoint like any other.
    architecture.save(training.net, training.tokenizer, out)


def train_vision(plan: TrainingPlan, folder: Path) -> None:
    """Run the vision stage in a process of its own, on half of the cores."""
    torch.set_num_threads(max(1, torch.get_num_threads() // 2))
    Training.begin(plan, folder).run("vision")


def train_ablation(plan: TrainingPlan, folder: Path, out: Path) -> None:
    """Train the same model, but its image stage sees harmful requests beside images, refused; in `folder`/ablation.

    Raises:
        CmrmError: `folder` has no look stage to go on from, or its ablation is another plan's.
    """
    if missing := [name for name in (TOKENIZER, "look.pt") if not (folder / name).exists()]:
        raise CmrmError(
            f"{str(folder)!r} has no {' and no '.join(missing)}, which the ablation goes on from; give the --work of a "
            "training, or run `python -m cmrm.pocket train` with this one first."
        )
    plan.claim(folder / "ablation")
    training = Training.begin(plan, folder)
    training.run("look")
    replace(training, folder=folder / "ablation").run("image", ABLATION)
    architecture.save(training.net, training.tokenizer, out)


@dataclass(frozen=True)
class Training:
    """A network in training by a plan, its tokenizer, and the folder of its checkpoints."""

    plan: TrainingPlan
    folder: Path
    net: LlavaForConditionalGeneration
    tokenizer: Tokenizer

    @classmethod
    def begin(cls, plan: TrainingPlan, folder: Path) -> "Training":
        """Build the untrained network, from the seed alone, and the tokenizer, trained at the first call."""
        words = folder / TOKENIZER
        if not words.exists():
            architecture.train_tokenizer(plan.seed).save(str(words))
        tokenizer = Tokenizer.from_file(str(words))
        torch.manual_seed(plan.seed)
        net = architecture.build_model(tokenizer).train()
        # Short sequences: plain attention trains half as fast again as the fused kernel of the CPU.
        net.set_attn_implementation("eager")
        return cls(plan, folder, net, tokenizer)

    def run(self, stage: str, image_mix: dict[str, int] = IMAGE) -> None:
        """Run one stage, or load what it made: a second call goes on where the first ended."""
        core = self.net.model
        trained: nn.Module = {"vision": core.vision_tower, "text": core.language_model}.get(stage, self.net)
        weights, start = self.folder / f"{stage}.pt", time.monotonic()
        if weights.exists():
            trained.load_state_dict(torch.load(weights, weights_only=True))
            return
        if stage == "vision":
            self._learn_to_see()
        elif stage == "projector":
            say(f"projector R^2 {fit_projector(self.net, self.tokenizer, self.plan.seed):.3f}")
        elif stage == "text":
            self._learn_to_talk(stage, draw_text_example, {"decoder": core.language_model})
        else:
            # Tower and embeddings stay, as both modalities share the latter.
            self.net.requires_grad_(False)
            for module in (core.multi_modal_projector, core.language_model.layers):
                module.requires_grad_(True)
            draw = partial(draw_image_example, mix=LOOK if stage == "look" else image_mix)
            self._learn_to_talk(stage, draw, {"decoder": core.language_model, "eye": core.multi_modal_projector})
        torch.save(trained.state_dict(), weights)
        say(f"{stage}: {(time.monotonic() - start) / 60:.1f} min")

    def _learn_to_see(self) -> None:
        tower = self.net.model.vision_tower
        heads = vision.build_heads(tower.config.hidden_size)
        losses = partial(vision.stream_losses, tower, heads, self.plan.stages["vision"].batch, self._seed("vision"))
        optimise("vision", self.plan, self.folder, {"tower": tower, "heads": heads}, losses)

    def _learn_to_talk(
        self, stage: str, draw: Callable[[random.Random], Example], modules: dict[str, nn.Module]
    ) -> None:
        def stream_losses(start: int) -> Iterator[torch.Tensor]:
            size = self.plan.stages[stage].batch
            for batch in draw_batches(draw, self.tokenizer, size, self._seed(stage), start):
                yield compute_loss(self.net, batch)

        optimise(stage, self.plan, self.folder, modules, stream_losses)

    def _seed(self, stage: str) -> str:
        return f"{self.plan.seed} {stage}"
