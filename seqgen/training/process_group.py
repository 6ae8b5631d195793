"""The processes that train together: who this one is, and the sums over all."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed
from torch import Tensor

from seqgen.core.machine import peak_memory


@dataclass(frozen=True)
class ProcessGroup:
    """One of `size` processes that train together, each on its `device`; one alone needs no process group."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def joined(cls, device: torch.device) -> ProcessGroup:
        """The group of this process's group; a group of one if it has joined none."""
        if not torch.distributed.is_initialized():
            return cls(device=device)
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)

    def sum(self, values: Tensor) -> Tensor:
        """`values` summed over all ranks, on every rank; in place where there are several."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def gather(self, values: Tensor) -> Tensor:
        """`values` of every rank, stacked: [size, ...], on every rank."""
        if self.size == 1:
            return values.unsqueeze(0)
        every = [torch.empty_like(values) for _ in range(self.size)]
        torch.distributed.all_gather(every, values)
        return torch.stack(every)

    def most(self, number: int) -> int:
        """The largest `number` of all ranks, on every rank."""
        if self.size == 1:
            return number
        value = torch.tensor(number, device=self.device)
        torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX)
        return int(value)

    def peak_memory(self) -> int:
        """Bytes that a rank has held at most: of its GPU's memory, in tensors, or of its process's. On every rank."""
        cuda = self.device.type == "cuda"
        return self.most(torch.cuda.max_memory_allocated(self.device) if cuda else peak_memory())

    def any(self, flag: bool) -> bool:
        """Whether any rank says so, on every rank."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)
