"""`--worker-cls cmrm.engines.vllm_plugin.gpu_worker.SteeredWorker`. Not run on a GPU yet."""

from vllm.v1.worker.gpu_worker import Worker

from .worker import InstallsSteering


class SteeredWorker(InstallsSteering, Worker):
    """vLLM's worker on a GPU, whose model can be steered: before anything is compiled or captured."""
