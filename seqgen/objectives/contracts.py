"""What a training minimises: objective(model, batch, state) -> loss, metrics, state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seqgen.models import SequentialModel
from seqgen.models.contracts import Sizes

State = dict[str, Tensor]


class Batch(NamedTuple):
    """x [B,1,H,W] and its contexts [B,N,H,W] (None if unconditional); the noise, [T,kB,N], k an image."""

    x: Tensor
    context: Tensor | None
    noise: Tensor


class Outcome(NamedTuple):
    """The loss [], whose gradient is followed; means over the batch to be reported, each [] and detached; what is kept.

    Metrics are in nats per image where they are bounds; `free_energy`, the bound that is minimised, is always there.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    state: State


def mean_outcome(parts: Sequence[Outcome]) -> Outcome:
    """That of a batch which was computed in parts of equally many images, each from the same state."""
    if len(parts) == 1:
        return parts[0]
    loss = torch.stack([part.loss for part in parts]).mean()
    metrics = {name: torch.stack([part.metrics[name] for part in parts]).mean(0) for name in parts[0].metrics}
    state = {
        name: torch.stack([part.state[name] for part in parts]).mean(0)
        if value.is_floating_point()
        else value
        for name, value in parts[-1].state.items()
    }
    return Outcome(loss, metrics, state)


class Objective(nn.Module):
    """Slot `objective`: forward(model, batch, state) -> Outcome.

    Parameters of its own (a baseline's) are trained with the model's, and clipped apart. What it keeps from step to
    step is its state, a dictionary of tensors; both are in the checkpoint. It sees one rank's images, or a part of
    them: floating-point numbers of its state are averaged over parts and ranks after each step.
    """

    samples = 1  # posterior samples an image, k
    rate = 1.0  # the learning rate of its own parameters, as a multiple of the model's

    def __init__(self, settings: Any, sizes: Sizes) -> None:
        super().__init__()
        self.settings, self.sizes = settings, sizes

    def start(self) -> State:
        """The state before the first step."""
        return {}

    def forward(self, model: SequentialModel, batch: Batch, state: State) -> Outcome:
        """One batch."""
        raise NotImplementedError
