"""How natural a text is to the unsteered model: where steering starts to break the language."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch.nn.utils.rnn import pad_sequence

from .model import Inputs, Vlm
from .prefix import begin, forward

BATCH = 8


def mean_log_probabilities(vlm: Vlm, inputs: Inputs, answers: Sequence[Sequence[int]]) -> list[float | None]:
    """Return each answer's mean log-probability a token (natural log) under the unsteered model.

    `answers` are token ids that continue the prompt `inputs`; scored a few at a time, as logits of whole
    answers are large. None for an answer without tokens.
    """
    rows = [torch.tensor(answer, dtype=torch.long, device=vlm.device) for answer in answers]
    parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return [score for part in parts for score in _scores(vlm, inputs, part)]


def _scores(vlm: Vlm, inputs: Inputs, answers: list[torch.Tensor]) -> list[float | None]:
    ids = pad_sequence(answers, batch_first=True)
    if not ids.numel():
        return [None] * len(answers)
    context, rest = begin(vlm, inputs, len(answers))
    # The last prompt token predicts the first of the answer; padding comes after what is scored.
    logits = forward(vlm, rest, context, nullcontext(), independent=False)
    if length := ids.shape[1] - 1:
        later = forward(vlm, {"input_ids": ids[:, :-1]}, context, nullcontext(), keep=length, independent=False)
        logits = torch.cat([logits, later], dim=1)
    chosen = logits.log_softmax(dim=-1).gather(-1, ids[..., None]).squeeze(-1)
    return [
        scores[: len(answer)].mean().item() if len(answer) else None
        for scores, answer in zip(chosen, answers, strict=True)
    ]
