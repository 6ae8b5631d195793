"""The spatial transformer's sampling at upright windows, which is separable (sec. 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from seqgen.ops.affine import affine_sample
from seqgen.ops.operation import Example, operation
from seqgen.ops.precision import full_precision


def axis_aligned_matrix(window: Tensor) -> Tensor:
    """`window` [B,4], (s_x, s_y, t_x, t_y) -> (s_x, 0, t_x; 0, s_y, t_y), [B,6] as `affine_sample` takes it."""
    scale_x, scale_y, shift_x, shift_y = window.unbind(1)
    none = torch.zeros_like(scale_x)
    return torch.stack([scale_x, none, shift_x, none, scale_y, shift_y], 1)


@operation
def axis_aligned_sample(image: Tensor, window: Tensor, height: int, width: int) -> Tensor:
    """K_h X K_w^T: `affine_sample` of `image` [B,C,h,w] at `window` [B,4] as two products, [B,C,height,width].

    Under autocast too it computes in float32.
    """
    scale_x, scale_y, shift_x, shift_y = full_precision(window).unbind(1)
    rows = _bilinear(scale_y, shift_y, height, image.shape[2])
    columns = _bilinear(scale_x, shift_x, width, image.shape[3])
    with torch.autocast(image.device.type, enabled=False):
        return rows[:, None] @ full_precision(image) @ columns.mT[:, None]


def _bilinear(scale: Tensor, shift: Tensor, points: int, pixels: int) -> Tensor:
    """k(p_i - n) for k(d) = max(0, 1 - |d|), sampling points p_i and pixels n: [B] each -> [B, points, pixels]."""
    start = (2 * torch.arange(points, device=scale.device, dtype=scale.dtype) + 1) / points - 1
    places = ((scale[:, None] * start + shift[:, None] + 1) * pixels - 1) / 2
    apart = places[:, :, None] - torch.arange(pixels, device=scale.device, dtype=scale.dtype)
    # Where a point lies on a pixel the slope is that to the pixel's right, as grid_sample's is.
    near = torch.where(apart < 0, 1 + apart, 1 - apart)
    return torch.where((apart < -1) | (apart >= 1), 0.0, near)


def _examples() -> list[Example]:
    def example(channels: int, size: int, to: int) -> Example:
        image = torch.randn(100, channels, size, size, requires_grad=channels > 1)
        window = (torch.tensor([1.0, 1.0, 0.0, 0.0]) + 0.1 * torch.randn(100, 4)).requires_grad_()
        return lambda: axis_aligned_sample(image, window, to, to)

    return [example(1, 28, 12), example(4, 12, 28), example(1, 52, 12), example(4, 12, 52)]


@axis_aligned_sample.fused(_examples)
def _fused(image: Tensor, window: Tensor, height: int, width: int) -> Tensor:
    # On a CPU the general kernel is quicker than small products: it reads four pixels a point.
    return affine_sample(image, axis_aligned_matrix(window), height, width)
