"""Models of two latents on 2 x 2 images, whose log p(x) is integrated by quadrature, to check estimates."""

from __future__ import annotations

import math
from typing import Any

import torch

from seqgen.models import SequentialModel, build
from seqgen.settings import ModelConfig


def tiny_model(**kinds: Any) -> SequentialModel:
    """H = W = 2, K = 1, T = 2, with weights large enough that z matters and q is not p."""
    torch.manual_seed(3)
    model = build(ModelConfig(steps=2, latents=1, hidden=6, **kinds), 2, 2, 0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
        # q wide enough that the importance weights have a finite variance.
        model.step.posterior.head.weight[1:].mul_(0.1)
        model.step.posterior.head.bias[1:].fill_(0.4)
    return model


def where_z_matters(model: SequentialModel) -> SequentialModel:
    """The same with more of z in h, and of h in the canvas, whose pixels z then makes far from independent."""
    with torch.no_grad():
        weight = model.step.transition.cell.linear.weight
        weight[:, 0].mul_(6)
        weight[:, 1:].mul_(0.3)
        model.step.transition.cell.linear.bias.mul_(0.3)
        model.step.canvas0.zero_()
        model.step.canvas.gates.bias.zero_()
        for layer in (model.step.writer.sprite, model.step.canvas.candidate):
            layer.weight.mul_(3)
            layer.bias.zero_()
        model.step.observation.conv.bias.zero_()
        if model.step.context_reader is not None:
            for parameter in model.step.context_reader.parameters():
                parameter.mul_(0.3)
    return model


def all_images() -> torch.Tensor:
    """The 16 binary images of 2 x 2 pixels, [16,1,2,2]."""
    bits = torch.arange(16).unsqueeze(1) >> torch.arange(4) & 1
    return bits.float().view(16, 1, 2, 2)


@torch.no_grad()
def quadrature_log_p(
    model: SequentialModel, x: torch.Tensor, context: torch.Tensor | None = None, nodes: int = 150
) -> torch.Tensor:
    """log of the double integral of p(x | z_1, z_2) N(z_1) N(z_2), by the trapezoidal rule on [-5, 5]^2.

    `x` is [M,1,2,2], `context` [M,1,2,2], or [1,1,2,2] for all.
    """
    z = torch.linspace(-5, 5, nodes, dtype=torch.float64)
    noise = torch.cartesian_prod(z, z)
    log_weight = 2 * math.log(10 / (nodes - 1)) - math.log(2 * math.pi) - noise.square().sum(1) / 2
    batch = model.noise(len(noise), torch.Generator())  # of which z are the first column
    batch[..., 0] = noise.T.float()
    given = [None] if context is None else [one.expand(len(noise), 1, 2, 2) for one in context]
    likelihoods = [model.decode(batch, one) for one in given]
    if len(likelihoods) < len(x):
        likelihoods *= len(x)
    return torch.stack(
        [
            (likelihood.log_prob(image.expand(len(noise), 1, 2, 2)).double() + log_weight).logsumexp(0)
            for likelihood, image in zip(likelihoods, x, strict=True)
        ]
    ).float()
