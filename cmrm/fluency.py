"""How natural a text is to the unsteered model: where steering starts to break the language."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch

from .model import Inputs, Vlm
from .prefix import forward, read


def mean_log_probabilities(vlm: Vlm, inputs: Inputs, answers: Sequence[Sequence[int]]) -> list[float | None]:
    """Return each answer's mean log-probability a token (natural log) under the unsteered model.

    `answers` are token ids that continue the prompt `inputs`; all are scored in one batch. None for
    an answer without tokens.
    """
    longest = max(map(len, answers))
    if not longest:
        return [None] * len(answers)
    ids = torch.zeros(len(answers), longest, dtype=torch.long, device=vlm.device)
    for row, answer in zip(ids, answers, strict=True):
        row[: len(answer)] = torch.tensor(answer, dtype=torch.long)
    prompt = inputs["input_ids"]
    context = read(vlm, inputs, prompt.shape[1] - 1).fan_out(len(answers))
    # The last prompt token predicts the first of the answer; padding comes after what is scored.
    fed = torch.cat([prompt[:, -1:].expand(len(answers), -1), ids[:, :-1]], dim=1)
    logits = forward(vlm, {"input_ids": fed}, context, nullcontext(), keep=longest)
    chosen = logits.log_softmax(dim=-1).gather(-1, ids[..., None]).squeeze(-1)
    return [
        scores[: len(answer)].mean().item() if answer else None for scores, answer in zip(chosen, answers, strict=True)
    ]
