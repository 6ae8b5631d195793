"""The native parts of a step as differentiable functions, each with the layer it begins with: few calls for autograd.

A function's layer is a `linear.Pass`, whose weight and bias it takes beside the layer for autograd's sake alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from seqgen.models import kernels
from seqgen.models.linear import Pass, StepLinear


def lstm(
    linear: StepLinear, inputs: tuple[Tensor, ...], cell: Tensor, share: Tensor | None
) -> tuple[Tensor, Tensor]:
    """h', cell' of an LSTM whose pre-activations, i, f, g, o, are W [inputs] + b, or without b, plus `share`."""
    layer = linear.one(varying=share is not None)
    return _Lstm.apply(layer, layer.weight, layer.bias, share, cell, *inputs)


def through_window(head: StepLinear, h: Tensor, sampler: kernels.Sampler, *images: Tensor) -> Tensor:
    """What `sampler` makes of `images` through the window W h + b."""
    layer = head.one()
    return _Window.apply(layer, sampler, layer.weight, layer.bias, h, *images)


def draw(parameters: Tensor, noise: Tensor, limits: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    """z = mean + sigma `noise`, mean and log sigma, kept within `limits`; `parameters` [B,2K] hold the latter two.

    The noise has no gradient.
    """
    return _Draw.apply(parameters, noise, limits)


def kl(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL[N(mean, sigma) || N(0, I)] over the last axis, nats: [...,K] -> [...]."""
    return _Kl.apply(mean, log_std)


def cgru(s: Tensor, gates: nn.Conv2d, candidate: nn.Conv2d) -> Tensor:
    """CGRU(s) of eq. 10: `s` [B,C,H,W]; 3 x 3 convolutions, `gates` (update, reset) to 2C channels."""
    keep = torch.is_grad_enabled()  # inside the function it never is
    return _Cgru.apply(keep, s, gates.weight, gates.bias, candidate.weight, candidate.bias)


class _Lstm(Function):
    @staticmethod
    def forward(
        ctx: Any,
        layer: Pass,
        weight: Tensor,
        bias: Tensor | None,
        share: Tensor | None,
        cell: Tensor,
        *inputs: Tensor,
    ) -> tuple[Tensor, Tensor]:
        gates, kept = layer.multiply(inputs)
        if share is not None:
            gates += share
        cell = cell.contiguous()
        h, following = kernels.lstm(gates, cell)
        ctx.layer = layer
        ctx.save_for_backward(gates, cell, following, *kept)
        ctx.set_materialize_grads(False)
        return h, following

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h: Tensor | None, grad_next: Tensor | None) -> tuple[Tensor | None, ...]:
        gates, cell, following, *kept = ctx.saved_tensors
        grad_gates, grad_cell = kernels.lstm_backward(
            gates, cell, following, _contiguous(grad_h), _contiguous(grad_next)
        )
        _, weight, _, share, _, *inputs = ctx.needs_input_grad
        grads = ctx.layer.backward(kept, grad_gates, weight, inputs)
        return None, None, None, grad_gates if share else None, grad_cell, *grads


class _Window(Function):
    @staticmethod
    def forward(
        ctx: Any,
        layer: Pass,
        sampler: kernels.Sampler,
        weight: Tensor,
        bias: Tensor,
        h: Tensor,
        *images: Tensor,
    ) -> Tensor:
        parameters, of_h = layer.multiply((h,))
        images = tuple(image.contiguous() for image in images)
        sample, of_window = sampler.forward(parameters, images)
        ctx.layer, ctx.sampler, ctx.counts = layer, sampler, (len(of_h), len(of_window))
        ctx.save_for_backward(*of_h, *of_window, parameters, *images)
        return sample

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved, (first, second) = ctx.saved_tensors, ctx.counts
        of_h, of_window = saved[:first], saved[first : first + second]
        parameters, *seen = saved[first + second :]
        _, _, weight, _, h, *images = ctx.needs_input_grad
        grad_parameters, *grad_images = ctx.sampler.backward(
            grad.contiguous(), of_window, parameters, seen, images
        )
        return None, None, None, None, *ctx.layer.backward(of_h, grad_parameters, weight, [h]), *grad_images


class _Draw(Function):
    @staticmethod
    def forward(
        ctx: Any, parameters: Tensor, noise: Tensor, limits: tuple[float, float]
    ) -> tuple[Tensor, Tensor, Tensor]:
        parameters, noise = parameters.contiguous(), noise.contiguous()
        ctx.save_for_backward(parameters, noise)
        ctx.limits = limits
        ctx.set_materialize_grads(False)
        return kernels.draw(parameters, noise, limits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        parameters, noise = ctx.saved_tensors
        given = [_contiguous(grad) for grad in grads]
        return kernels.draw_backward(parameters, noise, ctx.limits, given), None, None


class _Kl(Function):
    @staticmethod
    def forward(ctx: Any, mean: Tensor, log_std: Tensor) -> Tensor:
        mean, log_std = mean.contiguous(), log_std.contiguous()
        ctx.save_for_backward(mean, log_std)
        return kernels.kl(mean, log_std)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = ctx.saved_tensors
        return kernels.kl_backward(mean, log_std, grad.contiguous())


class _Cgru(Function):
    @staticmethod
    def forward(ctx: Any, keep: bool, s: Tensor, *weights: Tensor) -> Tensor:
        weights = tuple(weight.contiguous() for weight in weights)
        following, kept = kernels.cgru(s.contiguous(), weights, keep)
        if kept is not None:
            ctx.save_for_backward(kept, *weights)
        return following

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept, *weights = ctx.saved_tensors
        return None, *kernels.cgru_backward(kept, weights, grad.contiguous())


def _contiguous(grad: Tensor | None) -> Tensor | None:
    return None if grad is None else grad.contiguous()
