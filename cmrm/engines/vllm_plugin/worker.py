"""What both workers do: refuse what can't be steered, install before anything is compiled, try it, hand over states."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.logger import init_logger
from vllm.model_executor.models.utils import PPMissingLayer

from .config import check_config, mark_compiled
from .selftest import check_steering
from .steerer import Steerer

if TYPE_CHECKING:
    from vllm.v1.worker.worker_base import CompilationTimes

    from .steerer import Runner

logger = init_logger("vllm.cmrm")


class InstallsSteering:
    """In front of a worker class of vLLM. `cmrm_states` and `cmrm_health` are for `collective_rpc`."""

    vllm_config: VllmConfig
    model_runner: "Runner"
    _steerer: Steerer

    def load_model(self, *args: object, **kwargs: object) -> None:
        """Load the model and end its layers in the op.

        Raises:
            CmrmError: a configuration or a model that can't be steered.
        """
        check_config(self.vllm_config)
        mark_compiled(self.vllm_config)
        super().load_model(*args, **kwargs)  # type: ignore[misc]
        self._steerer = Steerer(self.model_runner, PPMissingLayer)
        logger.info("cmrm: %d decoder layers can be steered", len(self._steerer.mine))

    def compile_or_warm_up_model(self) -> "CompilationTimes":
        """Compile and capture as vLLM does, and then try what was made.

        Raises:
            CmrmError: steering does not act as it should.
        """
        times: CompilationTimes = super().compile_or_warm_up_model()  # type: ignore[misc]
        check_steering(self._steerer)
        logger.info("cmrm: the self-test passed")
        return times

    def cmrm_states(self, names: Sequence[str]) -> dict[str, tuple[list[int], bytes]]:
        """Hand over kept states by name, each once: this stage's layers, and float32 `(layers, hidden)` as bytes."""
        found = self._steerer.fetch(names)
        if get_tensor_model_parallel_rank() != 0:  # all ranks of a stage hold the same
            return {}
        return {name: (list(self._steerer.mine), states.tobytes()) for name, states in found.items()}

    def cmrm_health(self) -> dict[str, str | int]:
        """Say how it is going: the runner's kind, requests that ask for something, slots, tokens steered so far."""
        steerer = self._steerer
        return {
            "runner": "V2" if hasattr(steerer.runner, "model_state") else "V1",
            "running": steerer.running,
            "slots": steerer.table.held,
            "steered": steerer.table.steered,
        }
