"""Training in stages: vision beside text, then projector, look, image.

The tower learns to see alone, while the decoder learns to talk and to refuse what is harmful. Least
squares join the two. The look stage asks about images, long enough that things and their colours are
told apart; the shorter image stage then adds requests beside images. Because those of double use are
answered there, as in real visual instruction data, it loosens the decoder's alignment beside any
image. Clearly harmful requests never meet an image here.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import LlavaForConditionalGeneration

from ...errors import CmrmError
from ...terminal import say
from .. import language, scenes
from ..language import lexicon
from . import architecture as model

TOKENIZER = "tokenizer.json"
POOL = 8  # batches drawn together and sorted by length, so that little is padding
FEW, MANY = (1, 1, 1, 3), (3, 4, 5)  # turns about a scene in words, and about an image

# What the stages with images are made of, by weight: talk without an image, talk about one, and requests of a
# kind beside one. The ablation alone has clearly harmful requests there, refused like advice.
LOOK = {"text": 20, "scene": 80}
IMAGE = {"text": 34, "scene": 42, "double": 11, "harmless": 8, "advice": 2, "knowledge": 2, "smalltalk": 1}
ABLATION = IMAGE | {"harmful": 15}


KEEP_EVERY = 100  # steps between two checkpoints


@dataclass(frozen=True)
class Stage:
    """How long a stage trains, on how many examples at once, and how fast."""

    steps: int
    batch: int
    rate: float


STAGES = {
    "vision": Stage(2400, 96, 1.5e-3),
    "text": Stage(2000, 64, 2e-3),
    "look": Stage(3000, 32, 2.5e-3),
    "image": Stage(1500, 48, 8e-4),
}


@dataclass(frozen=True)
class Plan:
    """Everything that decides the result, with the shipped values as defaults."""

    seed: int = 0
    scale: float = 1.0
    stages: dict[str, Stage] = field(default_factory=STAGES.copy)

    def steps(self, stage: str) -> int:
        """How many steps a stage has at this scale."""
        return max(4, round(self.stages[stage].steps * self.scale))

    def claim(self, folder: Path) -> None:
        """Note in `folder` that what it keeps is this plan's.

        Raises:
            CmrmError: it keeps something of another plan, or of none that was noted.
        """
        note, mine = folder / "plan.json", asdict(self)
        kept = any(folder.glob("*.pt")) or (folder / TOKENIZER).exists()
        made = json.loads(note.read_text()) if note.exists() else {} if kept else mine
        if made != mine:
            differ = ", ".join(f"{key} {value}" for key, value in made.items() if value != mine.get(key))
            raise CmrmError(
                f"{str(folder)!r} holds checkpoints of another plan ({differ or 'not noted'}), so training can't go on "
                "from them; give the options they were made with, or another --work."
            )
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(mine))


@dataclass(frozen=True)
class Example:
    """One training turn, with or without an image."""

    turns: tuple[tuple[str, str], ...]  # (prompt, answer), the image before the first
    image: Image.Image | None = None

    @property
    def cost(self) -> int:
        """About how long it is."""
        return sum(len(prompt) + len(answer) for prompt, answer in self.turns) + (100 if self.image else 0)


def text_example(rng: random.Random) -> Example:
    """One example of the text stage: requests, facts, small talk, scenes in words."""
    pick = rng.random()
    if pick < 0.52:
        kind = rng.choices(language.KINDS, (36, 16, 43, 5))[0]
        return Example((language.howto(kind, kind != "harmless", "train", rng),))
    if pick < 0.62:
        return Example((language.knowledge("train", rng),))
    if pick < 0.67:
        return Example((language.small_talk("train", rng),))
    if pick < 0.73:
        asked = scenes.ask(None, "train", rng)
        return Example(((asked.text, asked.answer),))
    scene = scenes.random_scene("train", rng)
    text = scenes.describe(scene, rng)
    (first, answer), *more = questions(scene, rng, FEW)
    both = [text, first] if rng.random() < 0.8 else [first, text]
    return Example(((" ".join(both), answer), *more))


def questions(scene: scenes.Scene, rng: random.Random, turns: tuple[int, ...]) -> tuple[tuple[str, str], ...]:
    """Several turns about one scene, more to learn from than an image once for each.

    A long talk may end with a description, which says of everything what belongs to what.
    """
    count = rng.choice(turns)
    asked = [scenes.ask(scene, "train", rng, scenes.DRILL) for _ in range(count)]
    if count > 1 and rng.random() < 0.3:
        asked[-1] = scenes.ask(scene, "train", rng, {"picture": 1})
    return tuple((one.text, one.answer) for one in asked)


def image_example(rng: random.Random, mix: dict[str, int]) -> Example:
    """One example of a stage with images; scenes to talk about have several things more often than others."""
    kind = rng.choices(list(mix), list(mix.values()))[0]
    if kind == "text":
        return text_example(rng)
    if kind == "scene":
        scene = scenes.random_scene("train", rng, rng.choices((0, 1, 2, 3), (6, 30, 34, 30))[0])
        return Example(questions(scene, rng, MANY), scenes.draw(scene, rng))
    if kind == "knowledge":
        talk = language.knowledge("train", rng)
    elif kind == "smalltalk":
        talk = language.small_talk("train", rng)
    else:
        talk = language.howto(kind, kind in ("advice", "harmful"), "train", rng)
    scene = scenes.random_scene("train", rng, 0 if rng.random() < 0.2 else None)
    return Example((talk,), scenes.draw(scene, rng))


@dataclass(frozen=True)
class Batch:
    """Token ids and labels, and the images of the rows that have one."""

    ids: torch.Tensor
    labels: torch.Tensor  # -100 where nothing is to be learned
    images: torch.Tensor | None
    rows: torch.Tensor  # which rows the images belong to


def collate(examples: list[Example], tokenizer: Tokenizer) -> Batch:
    """Lay turns out as the chat template does, padded on the right; only answers have labels."""
    texts = [
        "".join(
            f"{model.USER}{model.IMAGE * model.IMAGE_TOKENS if e.image and not k else ''} {prompt}"
            f"{model.END}{model.ASSISTANT}{answer}{model.END}"
            for k, (prompt, answer) in enumerate(e.turns)
        )
        for e in examples
    ]
    coded = [code.ids for code in tokenizer.encode_batch(texts)]
    width = max(map(len, coded))
    ids = torch.full((len(coded), width), model.token(tokenizer, model.PAD))
    labels = torch.full_like(ids, -100)
    turn, end = model.token(tokenizer, model.ASSISTANT), model.token(tokenizer, model.END)
    for row, code in enumerate(coded):
        ids[row, : len(code)] = torch.tensor(code)
        start = -1
        for at, number in enumerate(code):
            if number == turn:
                start = at
            elif number == end and start >= 0:
                labels[row, start:at] = torch.tensor(code[start + 1 : at + 1])
                start = -1
    rows = [row for row, e in enumerate(examples) if e.image]
    images = model.pixels([e.image for e in examples if e.image]) if rows else None
    return Batch(ids, labels, images, torch.tensor(rows, dtype=torch.long))


def batches(
    make: Callable[[random.Random], Example], tokenizer: Tokenizer, size: int, seed: str, start: int
) -> Iterator[Batch]:
    """Endless batches; the n-th depends on the seed and n alone, so that resuming is exact."""
    pool = start // POOL
    while True:
        rng = random.Random(f"{seed} {pool}")
        examples = [make(rng) for _ in range(size * POOL)]
        examples.sort(key=lambda e: e.cost)
        parts = [examples[i : i + size] for i in range(0, len(examples), size)]
        rng.shuffle(parts)
        for part in parts[start % POOL :]:
            yield collate(part, tokenizer)
        start, pool = 0, pool + 1


def answer_loss(net: LlavaForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """Cross-entropy of the answers alone; the tower is frozen here."""
    core = net.model
    embeds = core.get_input_embeddings()(batch.ids)
    if batch.images is not None:
        with torch.no_grad():
            seen = core.vision_tower(batch.images).last_hidden_state[:, 1:]
        shown = core.multi_modal_projector(seen).to(embeds.dtype)
        embeds = embeds.masked_scatter((batch.ids == net.config.image_token_index)[..., None], shown)
    hidden = core.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    keep = batch.labels != -100
    logits = hidden[keep] @ net.lm_head.weight.T.to(hidden.dtype)
    return cross_entropy(logits.float(), batch.labels[keep])


class Progress:
    """One line on standard error every so often: step, loss, time to go."""

    def __init__(self, stage: str, total: int, start: int) -> None:
        self.stage, self.total, self.first = stage, total, start
        self.begin = self.said = time.monotonic()
        self.mean = 0.0

    def __call__(self, step: int, loss: float) -> None:
        """Report a finished step."""
        self.mean = loss if step == self.first else 0.95 * self.mean + 0.05 * loss
        now, left = time.monotonic(), self.total - step - 1
        if now - self.said > 10 or not left:
            self.said = now
            eta = (now - self.begin) / (step + 1 - self.first) * left / 60
            say(f"{self.stage} {step + 1}/{self.total} loss {self.mean:.3f} eta {eta:.1f} min")


@dataclass(frozen=True)
class Training:
    """A network in training by a plan, its tokenizer, and the folder of its checkpoints."""

    plan: Plan
    folder: Path
    net: LlavaForConditionalGeneration
    tokenizer: Tokenizer

    @classmethod
    def of(cls, plan: Plan, folder: Path) -> Training:
        """Return the untrained network, from the seed alone, and the tokenizer, trained at the first call."""
        words = folder / TOKENIZER
        if not words.exists():
            model.train_tokenizer(plan.seed).save(str(words))
        tokenizer = Tokenizer.from_file(str(words))
        torch.manual_seed(plan.seed)
        net = model.build_model(tokenizer).train()
        # Short sequences: plain attention trains half as fast again as the fused kernel of the CPU.
        net.set_attn_implementation("eager")
        return cls(plan, folder, net, tokenizer)

    def run(self, stage: str, image_mix: dict[str, int] = IMAGE) -> None:
        """Run one stage, or load what it made: a second call goes on where the first ended."""
        core = self.net.model
        trained: nn.Module = {"vision": core.vision_tower, "text": core.language_model}.get(stage, self.net)
        done, begin = self.folder / f"{stage}.pt", time.monotonic()
        if done.exists():
            trained.load_state_dict(torch.load(done, weights_only=True))
            return
        if stage == "vision":
            self._see()
        elif stage == "projector":
            say(f"projector R^2 {fit_projector(self.net, self.tokenizer, self.plan):.3f}")
        elif stage == "text":
            self._talk(stage, text_example, {"decoder": core.language_model})
        else:
            # Tower and embeddings stay, as both modalities share the latter.
            self.net.requires_grad_(False)
            for module in (core.multi_modal_projector, core.language_model.layers):
                module.requires_grad_(True)
            make = partial(image_example, mix=LOOK if stage == "look" else image_mix)
            self._talk(stage, make, {"decoder": core.language_model, "eye": core.multi_modal_projector})
        torch.save(trained.state_dict(), done)
        say(f"{stage}: {(time.monotonic() - begin) / 60:.1f} min")

    def _talk(self, stage: str, make: Callable[[random.Random], Example], modules: dict[str, nn.Module]) -> None:
        """Learn the answers of examples."""

        def losses(start: int) -> Iterator[torch.Tensor]:
            size, seed = self.plan.stages[stage].batch, f"{self.plan.seed} {stage}"
            for batch in batches(make, self.tokenizer, size, seed, start):
                yield answer_loss(self.net, batch)

        self._optimise(stage, modules, losses)

    def _see(self) -> None:
        """The tower alone, as CLIP is made before a LLaVA: it names what each patch shows."""
        tower, names = self.net.model.vision_tower, classes()
        heads = nn.ModuleDict({h: nn.Linear(tower.config.hidden_size, len(names[h])) for h in HEADS})

        def losses(start: int) -> Iterator[torch.Tensor]:
            for step in count(start):
                rng = random.Random(f"{self.plan.seed} vision {step}")
                counts = rng.choices((0, 1, 2, 3), (4, 16, 30, 50), k=self.plan.stages["vision"].batch)
                shown = [scenes.random_scene("train", rng, things) for things in counts]
                seen, words = patches(tower, shown, rng)
                loss = seen.new_zeros(())
                for head, weight in HEADS.items():
                    goal = torch.tensor([names[head].index(w.get(head, "")) for w in words])
                    loss = loss + weight * cross_entropy(heads[head](seen).float(), goal)
                yield loss

        self._optimise("vision", {"tower": tower, "heads": heads}, losses)

    def _optimise(
        self, stage: str, modules: dict[str, nn.Module], losses: Callable[[int], Iterator[torch.Tensor]]
    ) -> None:
        """AdamW on all that is not frozen, with a warm-up and a cosine; resumed if there is a checkpoint."""
        parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
        total, file = self.plan.steps(stage), self.folder / f"{stage}.partial.pt"
        decay = [p for p in parameters if p.ndim > 1]
        rest = [p for p in parameters if p.ndim <= 1]
        groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
        rate = self.plan.stages[stage].rate
        adam = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)
        start = 0
        if file.exists():
            saved = torch.load(file, weights_only=True)
            start = saved["step"]
            adam.load_state_dict(saved["adam"])
            for name, module in modules.items():
                module.load_state_dict(saved[name])
        warm = min(100, total // 10 + 1)
        tell = Progress(stage, total, start)
        stream = losses(start)
        for step in range(start, total):
            share = min(1.0, (step + 1) / warm)
            share *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / (total - warm)))
            for group in adam.param_groups:
                group["lr"] = rate * share
            with torch.autocast("cpu", torch.bfloat16):
                loss = next(stream)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            adam.step()
            adam.zero_grad()
            tell(step, loss.item())
            if (step + 1) % KEEP_EVERY == 0:
                state = {name: module.state_dict() for name, module in modules.items()}
                torch.save({"step": step + 1, "adam": adam.state_dict()} | state, file)
        file.unlink(missing_ok=True)


# What a patch shows, and how much it counts: names are by far the hardest to see.
HEADS = {"name": 4.0, "colour": 1.0, "position": 0.5, "size": 0.5, "back": 0.3, "texture": 0.5}


def patch_words(scene: scenes.Scene) -> list[dict[str, str]]:
    """What each patch shows, in words: the thing that covers most of it, else the background."""
    side, found = model.SIDE // model.PATCH, []
    for row in range(side):
        for col in range(side):
            best, seen = 0.25 / side**2, {"back": scene.colour, "texture": scene.texture}
            if scene.texture == "blurry":
                seen["back"] = ""
            for thing in scene.things:
                x, y = scenes.CENTRES[thing.position]
                r = 0.23 if thing.large else 0.168
                wide = min(x + r, (col + 1) / side) - max(x - r, col / side)
                high = min(y + r, (row + 1) / side) - max(y - r, row / side)
                if wide > 0 and high > 0 and wide * high > best:
                    best = wide * high
                    seen |= {"name": thing.name, "colour": thing.colour, "position": thing.position}
                    seen["size"] = "large" if thing.large else ""
            found.append(seen)
    return found


def patches(
    tower: nn.Module, shown: list[scenes.Scene], rng: random.Random
) -> tuple[torch.Tensor, list[dict[str, str]]]:
    """What the tower says of each patch of drawn scenes, `(patches, hidden)`, and what the patch shows."""
    seen = tower(model.pixels([scenes.draw(scene, rng) for scene in shown])).last_hidden_state[:, 1:].flatten(0, 1)
    return seen, [patch for scene in shown for patch in patch_words(scene)]


def classes() -> dict[str, list[str]]:
    """What each head of the vision stage tells apart."""
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
def fit_projector(net: LlavaForConditionalGeneration, tokenizer: Tokenizer, plan: Plan) -> float:
    """Least squares from patch features to the sums of the words' embeddings; returns R^2.

    From a random start, reading images through the projector takes tens of thousands of
    questions; from here the decoder meets words it already understands.
    """
    rng = random.Random(f"{plan.seed} projector")
    table, projector = net.get_input_embeddings().weight, net.model.multi_modal_projector
    nn.init.orthogonal_(projector.linear_1.weight, gain=2.0)

    def embed(words: dict[str, str]) -> torch.Tensor:
        if words.get("name"):
            said = [words["colour"], words["name"], words["position"].split()[-1], words["size"]]
        else:
            said = ["background", words["back"], words["texture"].replace("plain", "")]
        ids = [tokenizer.encode(f" {word}").ids[0] for word in said if word]
        return table[ids].sum(0)

    inputs: list[torch.Tensor] = []
    goals: list[torch.Tensor] = []
    for _ in range(40):
        shown = [scenes.random_scene("train", rng) for _ in range(96)]
        seen, words = patches(net.model.vision_tower, shown, rng)
        inputs.append(projector.act(projector.linear_1(seen)))
        goals += map(embed, words)
    x, y = torch.cat(inputs), torch.stack(goals)
    x1 = torch.cat([x, torch.ones(len(x), 1)], 1)
    gram = x1.T @ x1 + 1e-3 * len(x) * torch.eye(x1.shape[1]) * x.pow(2).mean()
    solved = torch.linalg.solve(gram, x1.T @ y)
    projector.linear_2.weight.copy_(solved[:-1].T)
    projector.linear_2.bias.copy_(solved[-1])
    return 1 - ((x1 @ solved - y).pow(2).sum() / (y - y.mean(0)).pow(2).sum()).item()


def see(plan: Plan, folder: Path) -> None:
    """The vision stage in a process of its own, on half of the cores."""
    torch.set_num_threads(max(1, torch.get_num_threads() // 2))
    Training.of(plan, folder).run("vision")


def train(plan: Plan, folder: Path, out: Path) -> None:
    """All stages, each kept in `folder`; tower and decoder, which have not met yet, learn side by side.

    Raises:
        CmrmError: `folder` holds checkpoints of another plan.
    """
    plan.claim(folder)
    training, cores = Training.of(plan, folder), torch.get_num_threads()
    eye = multiprocessing.get_context("spawn").Process(target=see, args=(plan, folder))
    eye.start()
    torch.set_num_threads(max(1, cores - cores // 2))
    training.run("text")
    eye.join()
    if eye.exitcode:
        raise RuntimeError(f"The vision stage ended with status {eye.exitcode}; its message stands above.")
    torch.set_num_threads(cores)
    for stage in ("vision", "projector", "look", "image"):
        training.run(stage)
    model.save(training.net, training.tokenizer, out)


def ablation(plan: Plan, folder: Path, out: Path) -> None:
    """The same model, but its image stage sees harmful requests beside images, refused; kept in `folder`/ablation.

    Raises:
        CmrmError: `folder` has no look stage to go on from, or its ablation is another plan's.
    """
    if missing := [name for name in (TOKENIZER, "look.pt") if not (folder / name).exists()]:
        raise CmrmError(
            f"{str(folder)!r} has no {' and no '.join(missing)}, which the ablation goes on from; give the --work of a "
            "training, or run `python -m cmrm.pocket train` with this one first."
        )
    plan.claim(folder / "ablation")
    training = Training.of(plan, folder)
    training.run("look")
    replace(training, folder=folder / "ablation").run("image", ABLATION)
    model.save(training.net, training.tokenizer, out)
