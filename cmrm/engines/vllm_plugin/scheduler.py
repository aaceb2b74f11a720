"""`--scheduler-cls cmrm.engines.vllm_plugin.scheduler.steered_scheduler`: steered keys stay with their request.

A steered request's blocks have names that are its own, from the first steered token on (`prefix.py`); so have those of
one whose state is to be recorded before what is answered already. A client needs no cache salt for it, and can't forget
one.
"""

from vllm.config import VllmConfig
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.request import Request, RequestStatus

from .config import model_shape
from .prefix import keep_apart
from .spec import Spec


def steered_scheduler(*args: object, vllm_config: VllmConfig, **kwargs: object) -> Scheduler:
    """Make the scheduler that vLLM would have made, with requests kept apart."""
    kind = SteeredAsyncScheduler if vllm_config.scheduler_config.async_scheduling else SteeredScheduler
    return kind(*args, vllm_config=vllm_config, **kwargs)


class _Apart:
    """In front of a scheduler class of vLLM."""

    vllm_config: VllmConfig
    hash_block_size: int

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._refused: list[Request] = []

    def add_request(self, request: Request) -> None:
        """Take a request, with names of its own for the blocks that no other may share.

        The front end refuses in words what doesn't fit the model. What came past it ends as an error before it runs:
        that, one that is answer alone, and one whose prompt goes on growing, so that no token stays its last.
        """
        super().add_request(request)  # type: ignore[misc]
        spec = None if request.sampling_params is None else Spec.of(request.sampling_params.extra_args)
        if spec is None:
            return
        prompt = request.num_prompt_tokens - spec.behind
        if request.resumable or prompt < 1 or not self._fits(spec):
            self._refused.append(request)
            self.finish_requests(request.request_id, RequestStatus.FINISHED_ERROR)  # type: ignore[attr-defined]
        elif (first := spec.apart(prompt)) is not None and request._block_hasher is not None:
            keep_apart(request, first // self.hash_block_size, request._block_hasher)

    def update_from_output(self, *args: object, **kwargs: object) -> dict[int, EngineCoreOutputs]:
        """Say of a pass what it gave, and of refused requests that they ended."""
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(*args, **kwargs)  # type: ignore[misc]
        for request in self._refused:
            ended = EngineCoreOutput(request.request_id, [], finish_reason=FinishReason.ERROR)
            outputs.setdefault(request.client_index, EngineCoreOutputs()).outputs.append(ended)
        self._refused.clear()
        return outputs

    def _fits(self, spec: Spec) -> bool:
        return spec.shape in (None, model_shape(self.vllm_config.model_config))


class SteeredScheduler(_Apart, Scheduler):
    """vLLM's plain scheduler."""


class SteeredAsyncScheduler(_Apart, AsyncScheduler):
    """vLLM's scheduler that runs a step ahead."""
