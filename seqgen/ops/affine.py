"""The spatial transformer's sampling (sec. 2; Jaderberg et al. 2015)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from seqgen.native import call
from seqgen.ops.operation import Example, check, check_batch, operation
from seqgen.ops.precision import full_precision


@operation
def affine_sample(image: Tensor, matrix: Tensor, height: int, width: int) -> Tensor:
    """ST(x, lambda): bilinear samples of `image` [B,C,h,w] at affine-warped points, [B,C,height,width].

    `matrix` [B,6], by rows, maps output coordinates in [-1,1] (pixel centres, align_corners=False) to input
    coordinates; points outside the input read zero. Under autocast too it computes in float32.
    """
    shape = [image.shape[0], image.shape[1], height, width]
    image, matrix = full_precision(image), full_precision(matrix)
    with torch.autocast(image.device.type, enabled=False):
        grid = functional.affine_grid(matrix.view(-1, 2, 3), shape, align_corners=False)
        return functional.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _examples() -> list[Example]:
    def example(channels: int, size: int, to: int) -> Example:
        image = torch.randn(100, channels, size, size, requires_grad=channels > 1)
        whole = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
        matrix = (whole + 0.1 * torch.randn(100, 6)).requires_grad_()
        return lambda: affine_sample(image, matrix, to, to)

    return [example(1, 28, 12), example(4, 12, 28), example(1, 52, 12), example(4, 12, 52)]


@affine_sample.fused(_examples)
def _fused(image: Tensor, matrix: Tensor, height: int, width: int) -> Tensor:
    return _AffineSample.apply(image, matrix, height, width)


class _AffineSample(Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, matrix: Tensor, height: int, width: int) -> Tensor:
        check_batch(matrix, image)
        check(matrix.shape[1:] == (6,), matrix)
        image, matrix = image.contiguous(), matrix.contiguous()
        out = image.new_empty(*image.shape[:2], height, width)
        call("affine_forward", *image.shape, height, width, torch.get_num_threads(), image, matrix, out)
        ctx.save_for_backward(image, matrix)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image, matrix = ctx.saved_tensors
        grad_matrix = torch.empty_like(matrix)
        grad_image = torch.empty_like(image) if ctx.needs_input_grad[0] else None
        call(
            "affine_backward", *image.shape, *grad.shape[2:], torch.get_num_threads(), image, matrix,
            grad.contiguous(), grad_image, grad_matrix,
        )  # fmt: skip
        return grad_image, grad_matrix, None, None
