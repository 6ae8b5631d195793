"""A step of training by itself, for benchmarks that time it or that change what `seqgen.training.fit` fixes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from seqgen.settings import TrainConfig


def step_of(
    loss: Callable[[], Tensor], parameters: Iterable[Tensor], train: TrainConfig, *, fused: bool = True
) -> Callable[[], Tensor]:
    """Computes `loss()`, its gradient, clips it, takes a step of Adam at a constant rate; returns the loss, detached.

    `fused` is Adam as `fit` has it, in one kernel for all parameters; without, as torch.optim gives it.
    """
    parameters = list(parameters)
    optimiser = torch.optim.Adam(parameters, lr=train.learning_rate, fused=fused or None)

    def step() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, train.clip)
        optimiser.step()
        return value.detach()

    return step
