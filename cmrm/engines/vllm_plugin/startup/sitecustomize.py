"""Runs when Python starts, before anything imports torchvision."""

from cmrm.engines.vllm_plugin.torchvision_ops import declare_if_needed

declare_if_needed()
