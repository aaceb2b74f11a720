"""Training in stages: vision beside text, then projector, look, image.

The tower learns to see alone, while the decoder learns to talk and to refuse what is harmful. Least
squares join the two. The look stage asks about images, long enough that things and their colours are
told apart; the shorter image stage then adds requests beside images. Because those of double use are
answered there, as in real visual instruction data, it loosens the decoder's alignment beside any
image. Clearly harmful requests never meet an image here.
"""

import json
import multiprocessing
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import LlavaForConditionalGeneration

from ...errors import CmrmError
from ...terminal import say
from . import architecture, vision
from .examples import ABLATION, IMAGE, LOOK, draw_image_example, draw_text_example, stream_losses
from .optimising import Stream, optimise

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Schedule:
    """How long a stage trains, on how many examples at once, and how fast."""

    steps: int
    batch: int
    rate: float


STAGES = {
    "vision": Schedule(2400, 96, 1.5e-3),
    "text": Schedule(2000, 64, 2e-3),
    "look": Schedule(3000, 32, 2.5e-3),
    "image": Schedule(1500, 48, 8e-4),
}


@dataclass(frozen=True)
class TrainingPlan:
    """Seed, scale and stages, with the shipped values as defaults."""

    seed: int = 0
    scale: float = 1.0
    stages: dict[str, Schedule] = field(default_factory=STAGES.copy)

    def count_steps(self, stage: str) -> int:
        """Return how many steps a stage has at this scale."""
        return max(4, round(self.stages[stage].steps * self.scale))

    def claim(self, folder: Path) -> None:
        """Note in `folder` that what it keeps is this plan's.

        Raises:
            CmrmError: it keeps something of another plan, or of none that was noted.
        """
        note, mine = folder / "plan.json", asdict(self)
        unnoted = any(folder.glob("*.pt")) or (folder / TOKENIZER).exists()
        made = json.loads(note.read_text()) if note.exists() else {} if unnoted else mine
        if made != mine:
            differ = ", ".join(f"{key} {value}" for key, value in made.items() if value != mine.get(key))
            raise CmrmError(
                f"{str(folder)!r} holds checkpoints of another plan ({differ or 'not noted'}), so training can't go on "
                "from them; give the options they were made with, or another --work."
            )
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(mine))


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
        if stage == "projector":
            say(f"projector R^2 {vision.fit_projector(self.net, self.tokenizer, self.plan.seed):.3f}")
        else:
            steps, rate = self.plan.count_steps(stage), self.plan.stages[stage].rate
            optimise(stage, steps, rate, self.folder, *self._prepare(stage, image_mix))
        torch.save(trained.state_dict(), weights)
        say(f"{stage}: {(time.monotonic() - start) / 60:.1f} min")

    def _prepare(self, stage: str, image_mix: dict[str, int]) -> tuple[dict[str, nn.Module], Stream]:
        """What learns in a stage, and from which losses."""
        core, size, seed = self.net.model, self.plan.stages[stage].batch, f"{self.plan.seed} {stage}"
        if stage == "vision":
            heads = vision.build_heads(core.vision_tower.config.hidden_size)
            losses = partial(vision.stream_losses, core.vision_tower, heads, size, seed)
            return {"tower": core.vision_tower, "heads": heads}, losses
        talk = partial(stream_losses, self.net, self.tokenizer, size, seed)
        if stage == "text":
            return {"decoder": core.language_model}, partial(talk, draw_text_example)
        # Tower and embeddings stay, as both modalities share the latter.
        self.net.requires_grad_(False)
        for module in (core.multi_modal_projector, core.language_model.layers):
            module.requires_grad_(True)
        draw = partial(draw_image_example, mix=LOOK if stage == "look" else image_mix)
        return {"decoder": core.language_model, "eye": core.multi_modal_projector}, partial(talk, draw)
