"""Several processes, as `accelerate launch` starts them on one machine or many, working on one result."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

# A process may wait for the slowest one as long as it takes.
_PATIENCE = timedelta(days=30)


def peak_gpu_memory() -> int:
    """Return the most bytes that this process has had on its GPUs, 0 without one."""
    import torch

    return sum(torch.cuda.max_memory_allocated(k) for k in range(torch.cuda.device_count()))


@dataclass(frozen=True)
class Processes:
    """Which of how many this process is, and on which device of its machine its model belongs (None: any)."""

    index: int = 0
    count: int = 1
    device: str | None = None
    state: Any = None

    @classmethod
    def current(cls) -> "Processes":
        """Join the processes of `accelerate launch`, or be the only one."""
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        import torch
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)
        return cls(state.process_index, state.num_processes, str(state.device), state)

    @property
    def main(self) -> bool:
        """Whether this is the process that reports."""
        return self.index == 0

    def wait(self) -> None:
        """Return when every process is here."""
        if self.count > 1:
            self.state.wait_for_everyone()

    def leave(self) -> None:
        """End the work together; a process that doesn't say so is taken for a failed one."""
        if self.count > 1:
            self.state.destroy_process_group()

    def gather(self, content: bytes) -> list[bytes]:
        """Return what each process gave, in order; as tensors of bytes, so that nothing is unpickled."""
        if self.count == 1:
            return [content]
        import torch
        from accelerate.utils import gather, pad_across_processes

        device = self.state.device
        sizes = gather(torch.tensor([len(content)], device=device)).tolist()
        sent = torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8).to(device)
        width = max(1, *sizes)
        rows = gather(pad_across_processes(sent, dim=0)).view(self.count, width).cpu()
        return [row[:size].numpy().tobytes() for row, size in zip(rows, sizes, strict=True)]
