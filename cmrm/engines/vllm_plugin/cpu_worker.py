"""`--worker-cls cmrm.engines.vllm_plugin.cpu_worker.SteeredCPUWorker`."""

from vllm.v1.worker.cpu_worker import CPUWorker

from .worker import InstallsSteering


class SteeredCPUWorker(InstallsSteering, CPUWorker):
    """vLLM's worker on a CPU, whose model can be steered."""
