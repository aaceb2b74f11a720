"""A folder for PYTHONPATH: what Python runs first in each process (see `torchvision_ops.py`)."""
