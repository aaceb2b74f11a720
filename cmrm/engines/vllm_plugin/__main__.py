"""Start vLLM's server so that its model can be steered: `python -m cmrm.engines.vllm_plugin --model MODEL ...`.

All of vLLM's options can follow. It needs the package installed in vLLM's environment, whose entry points vLLM goes by
(`pip install --no-deps .`).
"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from secrets import token_hex

from .config import ADMISSION, CPU_WORKER, GPU_WORKER, INSTANCE_VARIABLE, SCHEDULER
from .torchvision_ops import declare_if_needed, declare_in_children

_GROUPS = ("vllm.general_plugins", "vllm.platform_plugins", "vllm.io_processor_plugins", "vllm.stat_logger_plugins")


def arguments(given: Sequence[str], on_cpu: bool) -> list[str]:
    """Return vLLM's arguments: those given, before them what they may change, and behind them what steering needs.

    All tokens' probabilities may be asked for: to say why two answers differ.
    """
    worker = CPU_WORKER if on_cpu else GPU_WORKER
    needed = ["--worker-cls", worker, "--scheduler-cls", SCHEDULER, "--logits-processors", ADMISSION]
    return ["--max-logprobs", "-1", *given, *needed]


def allowed_plugins(given: str | None) -> str:
    """Return $VLLM_PLUGINS with the plugin's routes allowed: without it, also all that load where it is not set."""
    if given is None:
        names = {entry.name for group in _GROUPS for entry in entry_points(group=group)}
    else:
        names = set(filter(None, given.split(",")))
    return ",".join(sorted(names | {"cmrm"}))


def main() -> None:
    """Start the server; it ends as vLLM's own does."""
    if not any(entry.name == "cmrm" for entry in entry_points(group="vllm.endpoint_plugins")):
        sys.exit("The package is not installed here, so vLLM can't find its routes; run `pip install --no-deps .`.")
    os.environ[INSTANCE_VARIABLE] = token_hex(16)
    os.environ["VLLM_PLUGINS"] = allowed_plugins(os.environ.get("VLLM_PLUGINS"))
    declare_in_children(os.environ)
    declare_if_needed()
    from vllm.entrypoints.launchers.api_server import entry
    from vllm.platforms import current_platform

    sys.argv[1:] = arguments(sys.argv[1:], current_platform.is_cpu())
    entry.main()


if __name__ == "__main__":
    main()
