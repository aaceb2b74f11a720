"""The main loop of a stage: AdamW with a warm-up and a cosine, and checkpoints to go on from."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...terminal import say

CHECKPOINT_EVERY = 100  # steps
Stream = Callable[[int], Iterator[torch.Tensor]]
"""Losses, endlessly, from a step on."""


def optimise(stage: str, steps: int, rate: float, folder: Path, modules: dict[str, nn.Module], stream: Stream) -> None:
    """Train what is not frozen of `modules` on the losses of `stream`."""
    # 1. The optimizer holds all that is not frozen.
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    adam = _build_adam(parameters, rate)
    # 2. An interrupted stage goes on exactly where its checkpoint is.
    checkpoint = folder / f"{stage}.partial.pt"
    state: dict[str, Any] = {"adam": adam, **modules}
    start = _restore(checkpoint, state)
    report = ProgressLine(stage, steps, start)
    losses = stream(start)
    for step in range(start, steps):
        # 3. Each step has its own rate.
        for group in adam.param_groups:
            group["lr"] = rate * scale_rate(step, steps)
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
            torch.save({"step": step + 1} | {name: part.state_dict() for name, part in state.items()}, checkpoint)
    # 6. A stage that ended needs no checkpoint; its caller saves the weights.
    checkpoint.unlink(missing_ok=True)


def _restore(checkpoint: Path, state: dict[str, Any]) -> int:
    """Load a checkpoint, if there is one, and return the step to go on with."""
    if not checkpoint.exists():
        return 0
    saved = torch.load(checkpoint, weights_only=True)
    for name, part in state.items():
        part.load_state_dict(saved[name])
    step: int = saved["step"]
    return step


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
