"""What an epoch sums up on a rank: its metrics, the steps that were not taken, the time; packed into checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seqgen.training.process_group import ProcessGroup

_METRIC = "metric/"


@dataclass
class EpochSums:
    """Sums of the steps so far, of this rank; float64, as `bad`, [steps], on the rank's device.

    With them in a checkpoint an epoch that was interrupted ends with the same means as one that was not.
    """

    metrics: dict[str, Tensor]
    norms: Tensor
    bad: Tensor  # 1 where the gradient was not finite and no step was taken
    training_seconds: float = 0.0  # set at the end of the steps
    before: float = 0.0  # seconds of this epoch before it was interrupted
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def unpacked(cls, packed: Mapping[str, Tensor], steps: int, group: ProcessGroup) -> EpochSums:
        """What `packed` gave, also on another number of ranks; zeros if it is empty."""
        device = group.device
        if not packed:
            zeros = torch.zeros(1 + steps, dtype=torch.float64, device=device)
            return cls({}, zeros[0], zeros[1:])
        metrics = {
            key.removeprefix(_METRIC): _of_rank(value, group)
            for key, value in sorted(packed.items())  # files have no order, and ranks add up lists
            if key.startswith(_METRIC)
        }
        norms, bad = (packed[name].to(device) for name in ("norms", "bad"))
        return cls(metrics, norms, bad, *packed["seconds"].tolist())

    def packed(self, group: ProcessGroup) -> dict[str, Tensor]:
        """All ranks' sums as tensors, on every rank."""
        metrics = {f"{_METRIC}{name}": group.gather(value) for name, value in self.metrics.items()}
        seconds = torch.tensor([self.training_seconds, self.seconds], dtype=torch.float64)
        return {**metrics, "norms": self.norms, "bad": self.bad, "seconds": seconds}

    def add(self, index: int, metrics: Mapping[str, Tensor], norm: Tensor, bad: Tensor) -> None:
        """Add step `index`; of one that was not taken only that it was not."""
        self.metrics = {
            name: torch.where(bad, 0.0, value.double()) + self.metrics.get(name, 0.0)
            for name, value in metrics.items()
        }
        self.norms = self.norms + torch.where(bad, 0.0, norm)
        self.bad[index] = bad

    def means(self, group: ProcessGroup) -> dict[str, float]:
        """The means of the metrics ("train/...", of all ranks) and of the gradient's norm, over the steps taken."""
        skipped = float(self.bad.sum())
        taken = len(self.bad) - skipped or math.nan
        means = group.sum(torch.stack(list(self.metrics.values()))) / (taken * group.size)
        found = {f"train/{name}": mean for name, mean in zip(self.metrics, means.tolist(), strict=True)}
        return {**found, "grad_norm": float(self.norms) / taken, "skipped_steps": skipped}

    @property
    def seconds(self) -> float:
        """How long the epoch has been worked on."""
        return self.before + time.monotonic() - self.began


def _of_rank(values: Tensor, group: ProcessGroup) -> Tensor:
    """This rank's part of all ranks' [size]: its own or, if their number changed, the mean."""
    return (values[group.rank] if len(values) == group.size else values.mean()).to(group.device)
