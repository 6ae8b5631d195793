"""DRAW's grid of Gaussian filters (Gregor et al. 2015, eqs. 19-29)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from seqgen.native import call, library
from seqgen.ops.operation import Example, check, check_batch, operation


class FilterBank(NamedTuple):
    """Two sets of P normalised Gaussian filters: `y` [B,P,H], `x` [B,P,W], and the intensity gamma [B]."""

    y: Tensor
    x: Tensor
    gamma: Tensor


def full_stride(size: int, height: int, width: int) -> float:
    """Pixels between neighbouring filters of a grid of `size` that spans the image."""
    return (max(height, width) - 1) / max(size - 1, 1)


def filter_centres(parameters: Tensor, size: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Filter centres along y and x, [B,P] each, in pixels counted from 1 (DRAW eqs. 19-20, 22-24).

    `parameters` [B,5] are (gX~, gY~, log sigma^2, log delta~, log gamma).
    """
    grid_x, grid_y, _, log_stride, _ = parameters.unbind(1)
    steps = torch.arange(size, device=parameters.device, dtype=parameters.dtype) - (size - 1) / 2
    offsets = steps * (full_stride(size, height, width) * log_stride.exp())[:, None]
    centre_y, centre_x = (height + 1) / 2 * (grid_y + 1), (width + 1) / 2 * (grid_x + 1)
    return centre_y[:, None] + offsets, centre_x[:, None] + offsets


def filter_bank(parameters: Tensor, size: int, height: int, width: int) -> FilterBank:
    """`parameters` [B,5] as in `filter_centres` -> filters, each normalised to sum 1 (DRAW eqs. 25-26)."""
    variance, gamma = parameters[:, 2].exp(), parameters[:, 4].exp()
    centres_y, centres_x = filter_centres(parameters, size, height, width)
    return FilterBank(_filters(centres_y, variance, height), _filters(centres_x, variance, width), gamma)


def _filters(centres: Tensor, variance: Tensor, length: int) -> Tensor:
    pixels = torch.arange(1, length + 1, device=centres.device, dtype=centres.dtype)
    logits = -((pixels - centres[:, :, None]) ** 2) / (2 * variance[:, None, None])
    # softmax = the Gaussian's values divided by their sum, without underflow for a window far outside the image.
    return logits.softmax(-1)


@operation
def filterbank_read(image: Tensor, parameters: Tensor, size: int) -> Tensor:
    """gamma F_Y x F_X^T (DRAW eq. 27): `image` [B,C,H,W], `parameters` [B,5] -> [B,C,size,size]."""
    bank = filter_bank(parameters, size, *image.shape[2:])
    return bank.y[:, None] @ image @ bank.x.mT[:, None] * bank.gamma[:, None, None, None]


@operation
def filterbank_write(sprite: Tensor, parameters: Tensor, height: int, width: int) -> Tensor:
    """(1 / gamma) F_Y^T w F_X (DRAW eq. 29): `sprite` [B,C,P,P], `parameters` [B,5] -> [B,C,height,width]."""
    bank = filter_bank(parameters, sprite.shape[-1], height, width)
    return bank.y.mT[:, None] @ (sprite / bank.gamma[:, None, None, None]) @ bank.x[:, None]


def _parameters() -> Tensor:
    return (0.1 * torch.randn(100, 5)).requires_grad_()


def _reads() -> list[Example]:
    def example(size: int) -> Example:
        image, parameters = torch.randn(100, 2, 28, 28, requires_grad=True), _parameters()
        return lambda: filterbank_read(image, parameters, size)

    return [example(2), example(5)]


def _writes() -> list[Example]:
    def example(size: int) -> Example:
        sprite, parameters = torch.randn(100, 1, size, size, requires_grad=True), _parameters()
        return lambda: filterbank_write(sprite, parameters, 28, 28)

    return [example(5), example(12)]


@filterbank_read.fused(_reads)
def _fused_read(image: Tensor, parameters: Tensor, size: int) -> Tensor:
    return _Read.apply(image, parameters, size)


@filterbank_write.fused(_writes)
def _fused_write(sprite: Tensor, parameters: Tensor, height: int, width: int) -> Tensor:
    return _Write.apply(sprite, parameters, height, width)


class _Read(Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, parameters: Tensor, size: int) -> Tensor:
        check_batch(parameters, image)
        check(parameters.shape[1:] == (5,), parameters)
        image, parameters = image.contiguous(), parameters.contiguous()
        batch, channels, height, width = image.shape
        glimpse = image.new_empty(batch, channels, size, size)
        bank = image.new_empty(batch, library().filterbank_kept(size, height, width))
        call(
            "filterbank_read_forward",
            *image.shape,
            size,
            torch.get_num_threads(),
            parameters,
            image,
            glimpse,
            bank,
        )
        ctx.save_for_backward(image, parameters, bank)
        return glimpse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, parameters, bank = ctx.saved_tensors
        grad_parameters = torch.empty_like(parameters)
        grad_image = torch.empty_like(image) if ctx.needs_input_grad[0] else None
        call(
            "filterbank_read_backward", *image.shape, grad.shape[-1], torch.get_num_threads(), parameters, image,
            bank, grad.contiguous(), grad_parameters, grad_image,
        )  # fmt: skip
        return grad_image, grad_parameters, None


class _Write(Function):
    @staticmethod
    def forward(ctx: Any, sprite: Tensor, parameters: Tensor, height: int, width: int) -> Tensor:
        check_batch(parameters, sprite)
        check(parameters.shape[1:] == (5,), parameters)
        sprite, parameters = sprite.contiguous(), parameters.contiguous()
        batch, channels, size, _ = sprite.shape
        written = sprite.new_empty(batch, channels, height, width)
        bank = sprite.new_empty(batch, library().filterbank_kept(size, height, width))
        threads = torch.get_num_threads()
        call("filterbank_write_forward", *written.shape, size, threads, parameters, sprite, written, bank)
        ctx.save_for_backward(sprite, parameters, bank)
        return written

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        sprite, parameters, bank = ctx.saved_tensors
        grads = torch.empty_like(sprite), torch.empty_like(parameters)
        threads = torch.get_num_threads()
        call(
            "filterbank_write_backward", *grad.shape, sprite.shape[-1], threads, parameters, sprite, bank,
            grad.contiguous(), grads[1], grads[0],
        )  # fmt: skip
        return *grads, None, None
