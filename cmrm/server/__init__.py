"""The page served: limits, health, downloads, ZeroGPU."""
