"""`--logits-processors cmrm.engines.vllm_plugin.processor:Admission`: refuses bad requests before the engine."""

import torch
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor.interface import BatchUpdate, LogitsProcessor
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as LogitsProcessorV2

from .admission import admit


class Admission(LogitsProcessor, LogitsProcessorV2):
    """A processor of neither runner's logits: what it is for is `validate_params`, which runs in the front end.

    A bad request that came as far as a worker would end the engine.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raise `CmrmError`, a ValueError, for a request that can't be answered as it asks for."""
        admit(sampling_params.extra_args)

    def apply(self, logits: torch.Tensor, ctx: object = None) -> torch.Tensor:
        """Return the logits as they are."""
        return logits

    def is_argmax_invariant(self) -> bool:
        """Say that greedy answers don't depend on it."""
        return True

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Have no state."""

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Say that the request's logits are left alone."""
        return False
