"""How natural a text is to the unsteered model: where steering starts to break the language."""

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from ..model.network import Inputs, Network

BATCH = 8


def mean_log_probabilities(network: Network, inputs: Inputs, answers: Sequence[Sequence[int]]) -> list[float | None]:
    """Return each answer's mean log-probability a token (natural log) under the unsteered model.

    `answers` are token ids that continue the prompt `inputs`; scored a few at a time, as logits of whole
    answers are large. None for an answer without tokens.
    """
    rows = [torch.tensor(answer, dtype=torch.long, device=network.device) for answer in answers]
    parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return [score for part in parts for score in _scores(network, inputs, part)]


def pair_log_probabilities(
    network: Network, prompts: Sequence[Inputs], answers: Sequence[Sequence[int]]
) -> list[float | None]:
    """Return what `mean_log_probabilities` does, of each answer behind a prompt of its own.

    Prompts are batch-1 inputs of any lengths. Those of text alone run a few at a time, padded behind the answer, where
    a causal decoder does not look; those with an image, or of a model that reads a prompt in both directions, one by
    one.

    Raises:
        ValueError: not one answer a prompt.
    """
    scores: list[float | None] = [None] * len(prompts)
    together: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids = prompt["input_ids"]
        if network.plain_batch or any(value.shape != ids.shape for value in prompt.values()):
            [scores[index]] = mean_log_probabilities(network, prompt, [answer])
        elif answer:
            together.append((index, ids[0], torch.tensor(answer, device=network.device)))
    together.sort(key=lambda row: len(row[1]))  # prompts of like lengths leave the fewest logits to keep
    for start in range(0, len(together), BATCH):
        part = together[start : start + BATCH]
        for (index, _, _), score in zip(part, _pair_scores(network, [row[1:] for row in part]), strict=True):
            scores[index] = score
    return scores


def _scores(network: Network, inputs: Inputs, answers: list[torch.Tensor]) -> list[float | None]:
    ids = pad_sequence(answers, batch_first=True)
    if not ids.numel():
        return [None] * len(answers)
    context, rest = network.begin(inputs, len(answers))
    # The last prompt token predicts the first of the answer; padding comes after what is scored.
    logits = network.forward(rest, context, independent=False)
    if length := ids.shape[1] - 1:
        later = network.forward({"input_ids": ids[:, :-1]}, context, keep=length, independent=False)
        logits = torch.cat([logits, later], dim=1)
    return [
        scores[: len(answer)].mean().item() if len(answer) else None
        for scores, answer in zip(_chosen(logits, ids), answers, strict=True)
    ]


def _pair_scores(network: Network, pairs: Sequence[tuple[torch.Tensor, ...]]) -> list[float]:
    rows = [torch.cat(pair) for pair in pairs]
    ids = pad_sequence(rows, batch_first=True)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    inputs = {"input_ids": ids[:, :-1], "attention_mask": mask[:, :-1]}
    first = min(len(prompt) for prompt, _ in pairs)
    keep = ids.shape[1] - first
    logits = network.forward(inputs, network.empty_context(), keep=keep, independent=False)
    return [
        scores[len(prompt) - first :][: len(answer)].mean().item()
        for scores, (prompt, answer) in zip(_chosen(logits, ids[:, first:]), pairs, strict=True)
    ]


def _chosen(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return the log-probability of each token `(rows, length)` by the logits that predict it."""
    return logits.log_softmax(dim=-1).gather(-1, ids[..., None]).squeeze(-1)
