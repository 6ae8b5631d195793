"""The convolutional gated recurrent unit of Kaiser & Sutskever 2015 (eq. 10)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from seqgen.native import call, library
from seqgen.ops.operation import Example, check, operation


@operation
def cgru(s: Tensor, gates: Tensor, gates_bias: Tensor, candidate: Tensor, candidate_bias: Tensor) -> Tensor:
    """CGRU(s) = u s + (1 - u) tanh(U * (r s) + B), u = sigmoid(U' * s + B'), r = sigmoid(U'' * s + B'').

    `s` [B,C,H,W]; * is a convolution that keeps the size, with odd kernels: `gates` [2C,C,k,k] is U' and U'',
    `candidate` [C,C,k,k] is U.
    """
    # oneDNN's convolutions of few channels are twice as fast channels last; the layout then stays for all steps.
    s = s.contiguous(memory_format=torch.channels_last)
    around = gates.shape[-1] // 2
    update, reset = functional.conv2d(s, gates, gates_bias, padding=around).sigmoid().chunk(2, dim=1)
    proposed = functional.conv2d(reset * s, candidate, candidate_bias, padding=around).tanh()
    # Under autocast the convolutions are in half precision; the canvas itself is not.
    return torch.lerp(proposed.to(s.dtype), s, update.to(s.dtype))


def _examples() -> list[Example]:
    def example(size: int) -> Example:
        s, weight, half = torch.randn(100, 4, size, size), torch.randn(8, 4, 3, 3), torch.randn(4, 4, 3, 3)
        arguments = [
            part.requires_grad_() for part in (s, 0.1 * weight, torch.ones(8), 0.1 * half, torch.zeros(4))
        ]
        return lambda: cgru(*arguments)

    return [example(28), example(52)]


@cgru.fused(_examples, fits=lambda s, gates, *_: gates.shape[-2:] == (3, 3))
def _fused(s: Tensor, gates: Tensor, gates_bias: Tensor, candidate: Tensor, candidate_bias: Tensor) -> Tensor:
    keep = torch.is_grad_enabled()  # inside the function it never is
    return _Cgru.apply(keep, s, gates, gates_bias, candidate, candidate_bias)


class _Cgru(Function):
    @staticmethod
    def forward(ctx: Any, keep: bool, s: Tensor, *weights: Tensor) -> Tensor:
        channels = s.shape[1]
        check(weights[0].shape[:2] == (2 * channels, channels), s, weights[0])
        weights, s = tuple(weight.contiguous() for weight in weights), s.contiguous()
        kept = s.new_empty(len(s), library().cgru_kept(*s.shape[1:])) if keep else None
        following = torch.empty_like(s)
        call("cgru_forward", *s.shape, torch.get_num_threads(), s, *weights, following, kept)
        if kept is not None:
            ctx.save_for_backward(kept, *weights)
        return following

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept, *weights = ctx.saved_tensors
        gates, _, candidate, _ = weights
        grad = grad.contiguous()
        grads = torch.empty_like(grad), *(torch.empty_like(weight) for weight in weights)
        call("cgru_backward", *grad.shape, torch.get_num_threads(), kept, gates, candidate, grad, *grads)
        return None, *grads
