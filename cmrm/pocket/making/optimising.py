"""The main loop of a stage: AdamW with a warm-up and a cosine, and checkpoints to go on from."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ...terminal import say
from .plan import TrainingPlan

CHECKPOINT_EVERY = 100  # steps


def optimise(
    stage: str,
    plan: TrainingPlan,
    folder: Path,
    modules: dict[str, nn.Module],
    stream: Callable[[int], Iterator[torch.Tensor]],
) -> None:
    """Train what is not frozen of `modules` on the losses that `stream` yields from a step on."""
    # 1. The optimizer holds all that is not frozen.
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    total, rate = plan.count_steps(stage), plan.stages[stage].rate
    adam = _build_adam(parameters, rate)
    # 2. An interrupted stage goes on where its checkpoint is.
    checkpoint = Checkpoint(folder / f"{stage}.partial.pt", adam, modules)
    start = checkpoint.restore()
    report = ProgressLine(stage, total, start)
    losses = stream(start)
    for step in range(start, total):
        # 3. Each step has its own rate.
        for group in adam.param_groups:
            group["lr"] = rate * scale_rate(step, total)
        # 4. The loss of a batch, its gradient, and a step against it.
        with torch.autocast("cpu", torch.bfloat16):
            loss = next(losses)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        adam.step()
        adam.zero_grad()
        # 5. Say how far it is, and now and then save that.
        report(step, loss.item())
        if (step + 1) % CHECKPOINT_EVERY == 0:
            checkpoint.save(step + 1)
    # 6. A stage that ended needs no checkpoint; its caller saves the weights.
    checkpoint.file.unlink(missing_ok=True)


def scale_rate(step: int, total: int) -> float:
    """Return the share of the full rate at a step: a warm-up, then a cosine down to 2%."""
    warm = min(100, total // 10 + 1)
    share = min(1.0, (step + 1) / warm)
    return share * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / (total - warm))))


def _build_adam(parameters: list[nn.Parameter], rate: float) -> torch.optim.AdamW:
    decay = [p for p in parameters if p.ndim > 1]
    rest = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)


@dataclass(frozen=True)
class Checkpoint:
    """A file from which an interrupted stage goes on exactly."""

    file: Path
    adam: torch.optim.AdamW
    modules: dict[str, nn.Module]

    def restore(self) -> int:
        """Load the file, if there is one, and return the step to go on with."""
        if not self.file.exists():
            return 0
        saved = torch.load(self.file, weights_only=True)
        self.adam.load_state_dict(saved["adam"])
        for name, module in self.modules.items():
            module.load_state_dict(saved[name])
        step: int = saved["step"]
        return step

    def save(self, step: int) -> None:
        """Write the state before a step."""
        state = {name: module.state_dict() for name, module in self.modules.items()}
        torch.save({"step": step, "adam": self.adam.state_dict()} | state, self.file)


class ProgressLine:
    """One line on standard error every so often: step, loss, time to go."""

    def __init__(self, stage: str, total: int, start: int) -> None:
        self.stage, self.total, self.first = stage, total, start
        self.begin = self.last = time.monotonic()
        self.mean = 0.0

    def __call__(self, step: int, loss: float) -> None:
        """Report a finished step."""
        self.mean = loss if step == self.first else 0.95 * self.mean + 0.05 * loss
        now, left = time.monotonic(), self.total - step - 1
        if now - self.last > 10 or not left:
            self.last = now
            eta = (now - self.begin) / (step + 1 - self.first) * left / 60
            say(f"{self.stage} {step + 1}/{self.total} loss {self.mean:.3f} eta {eta:.1f} min")
