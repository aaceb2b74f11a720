"""What of vLLM's configuration the plugin can't work with, and what it needs."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...errors import CmrmError
from .spec import Shape

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig

_HERE = "cmrm.engines.vllm_plugin"
SCHEDULER = f"{_HERE}.scheduler.steered_scheduler"
ADMISSION = f"{_HERE}.processor:Admission"
INSTANCE_VARIABLE = "CMRM_INSTANCE"  # of the environment: a text that is new at each start
CPU_WORKER, GPU_WORKER = f"{_HERE}.cpu_worker.SteeredCPUWorker", f"{_HERE}.gpu_worker.SteeredWorker"


def model_shape(model_config: "ModelConfig") -> Shape:
    """Return how many decoder layers a model has, and the width of its states."""
    return model_config.get_total_num_hidden_layers(), model_config.get_hidden_size()


def check_config(config: "VllmConfig") -> None:
    """Raise `CmrmError` for a `VllmConfig` under which a request might be answered otherwise than it asked for."""
    for problem in _problems(config):
        raise CmrmError(problem)


def mark_compiled(config: "VllmConfig") -> None:
    """Give what is compiled under a `VllmConfig` names of its own.

    vLLM keeps compiled models on disk and leaves the worker's class out of their names, so it might load one that it
    had compiled without the op; the self-test would then refuse to start.
    """
    if isinstance(config.additional_config, dict):
        config.additional_config.setdefault("cmrm", 1)


def _problems(config: "VllmConfig") -> Iterator[str]:
    parallel, model = config.parallel_config, config.model_config
    apart = "puts the tokens of a pass into parts, so the plugin would not find the steered one"
    for wrong, what, option in (
        (parallel.prefill_context_parallel_size > 1, "prefill context parallelism", "--prefill-context-parallel-size"),
        (parallel.decode_context_parallel_size > 1, "decode context parallelism", "--decode-context-parallel-size"),
        (parallel.use_ubatching, "micro-batching", "--enable-dbo and --ubatch-size"),
        (_splits_sequences(config), "sequence parallelism", "the compilation passes enable_sp and fuse_gemm_comms"),
        (config.cache_config.kv_sharing_fast_prefill, "fast prefill", "--kv-sharing-fast-prefill"),
    ):
        if wrong:
            yield f"CMRM can't steer with {what}, which {apart}; start without {option}."
    for wrong, what, remedy in (
        (parallel.data_parallel_size > 1, "data parallelism", "start one server for each replica"),
        (config.speculative_config is not None, "speculative decoding", "start without a draft model"),
        (config.kv_transfer_config is not None, "KV transfer", "start without it"),
        (model.runner_type != "generate", "models that don't generate", "use one that answers"),
        (model.is_encoder_decoder, "encoder-decoder models", "use one with a decoder alone"),
    ):
        if wrong:
            yield f"CMRM has not been tried with {what}, and might steer the wrong token; {remedy}."
    if config.scheduler_config.scheduler_cls != SCHEDULER:
        yield (
            "CMRM needs its scheduler, which keeps steered keys out of what other requests read; start with "
            f"--scheduler-cls {SCHEDULER}."
        )
    if ADMISSION not in (model.logits_processors or ()):
        yield (
            "CMRM needs its admission, without which a bad request would end the engine; start with "
            f"--logits-processors {ADMISSION}."
        )


def _splits_sequences(config: "VllmConfig") -> bool:
    passes = config.compilation_config.pass_config
    wanted = getattr(passes, "enable_sp", False) or getattr(passes, "fuse_gemm_comms", False)
    return bool(wanted or getattr(config.parallel_config, "enable_hc_sp", False))
