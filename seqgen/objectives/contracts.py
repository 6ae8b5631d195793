"""What a training minimises: objective(model, batch, state) -> loss, metrics, state."""

from __future__ import annotations

from typing import Any, NamedTuple

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


class Objective(nn.Module):
    """Slot `objective`: forward(model, batch, state) -> Outcome.

    Parameters of its own (a baseline's) are trained with the model's, and clipped apart. What it keeps from step to
    step is its state, a dictionary of tensors; both are in the checkpoint. It sees one rank's images: floating-point
    numbers of its state are averaged over the ranks after each step.
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
