"""Where a model's parts are: device maps of accelerate, and the device on which a part runs."""

from collections import Counter
from collections.abc import Iterable

import psutil
import torch
from torch import nn

from ..errors import CmrmError
from ..settings import DEVICE_MAPS, DeviceMap


def checked_device_map(device_map: DeviceMap | None) -> DeviceMap:
    """Return the device map to load by; None is "auto" with CUDA and "cpu" without.

    Raises:
        CmrmError: a device that does not exist, or that this machine does not have.
    """
    if device_map is None:
        return "auto" if torch.cuda.is_available() else "cpu"
    if isinstance(device_map, str) and device_map in DEVICE_MAPS:
        return device_map
    for place in device_map.values() if isinstance(device_map, dict) else [device_map]:
        if place != "disk" and not _exists(place):
            raise CmrmError(
                f"The device map names {place!r}, which this machine does not have; name 'cpu', 'disk', a CUDA device "
                f"such as 'cuda:0', or let accelerate choose by {', '.join(map(repr, DEVICE_MAPS))}."
            )
    return device_map


def _exists(place: str | int) -> bool:
    try:
        device = torch.device(place) if isinstance(place, str) else torch.device("cuda", place)
    except (RuntimeError, TypeError):
        return False
    return device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < torch.cuda.device_count())


def on_gpu(device_map: DeviceMap) -> bool:
    """Whether a checked device map leads to a GPU."""
    places = device_map.values() if isinstance(device_map, dict) else [device_map]
    return torch.cuda.is_available() and any(str(place) not in ("cpu", "disk") for place in places)


def device_of(module: nn.Module) -> torch.device:
    """Return the device that `module` computes on: where its weights are, or where accelerate brings them."""
    device = next(module.parameters()).device
    if device.type != "meta":
        return device
    hooks = (vars(part).get("_hf_hook") for part in module.modules())
    return torch.device(next(hook.execution_device for hook in hooks if hook is not None))


def free_memory(layers: Iterable[nn.Module]) -> int:
    """Return how many bytes caches may take that are spread over the devices as the layers are."""
    devices = Counter(map(device_of, layers))
    return min(_free(device) * devices.total() // count for device, count in devices.items())


def _free(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def total_memory(device: torch.device) -> int:
    """Return all memory of a device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total
