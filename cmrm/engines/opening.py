"""The engine that was chosen."""

from ..settings import ModelChoice, parse_device_map
from .base import Engine
from .local import LocalEngine


def open_engine(chosen: ModelChoice) -> Engine:
    """Load the model here, or connect to the server that has it.

    Raises:
        CmrmError: a model or a server that can't be used, with the reason.
    """
    if chosen.engine == "vllm":
        from .vllm import VllmEngine

        return VllmEngine.connect(chosen.engine_url, chosen.engine_key, plain_template=chosen.plain_template)
    placement = parse_device_map(chosen.device_map)
    return LocalEngine.load(chosen.model, chosen.quantization, placement, plain_template=chosen.plain_template)
