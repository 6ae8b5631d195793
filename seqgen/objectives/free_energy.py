"""The free energy F of eq. 8, an upper bound of -log p(x)."""

from __future__ import annotations

import torch
from torch import Tensor

from seqgen.models.generator import SequentialGenerator


def free_energy(
    model: SequentialGenerator, x: Tensor, context: Tensor | None, generator: torch.Generator
) -> Tensor:
    """F = E_q[sum_t KL_t - log p(x | z)] with one posterior sample an image, [B] in nats.

    `x` and `context` are [B,1,H,W]; `generator` is a CPU generator, so that a seed means the same on any device.
    """
    noise = torch.randn(model.noise_shape(len(x)), generator=generator).to(x.device)
    return model(x, context, noise).free_energy()
