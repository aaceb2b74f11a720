"""`--logits-processors cmrm.engines.vllm_plugin.processor:Admission`: refuses bad requests before the engine."""

from typing import Any

from vllm.v1.sample.logits_processor.interface import LogitsProcessor
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as LogitsProcessorV2

from .admission import admit


class Admission(LogitsProcessor, LogitsProcessorV2):
    """A processor of neither runner's logits: what it is for is `validate_params`, which runs in the front end.

    A bad request that came as far as a worker would end the engine.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise `CmrmError`, a ValueError, for a request that can't be answered as it asks for."""
        admit(sampling_params.extra_args)

    def apply(self, logits: Any, ctx: Any = None) -> Any:
        """Return the logits as they are."""
        return logits

    def is_argmax_invariant(self) -> bool:
        """Say that greedy answers don't depend on it."""
        return True

    def update_state(self, batch_update: Any) -> None:
        """Have no state."""

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Say that the request's logits are left alone."""
        return False
