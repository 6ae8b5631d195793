"""The forms that a window may have: affine maps of fewer and fewer numbers (sec. 2).

All have the spatial transformer's conventions: coordinates in [-1,1], pixel centres, zeros outside; a reader's map goes
from glimpse to image, a writer's from canvas to sprite.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seqgen import ops
from seqgen.models.contracts import Sizes

SQUARE = torch.tensor(
    [[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]
)  # a window's corners in its coordinates


def pixels(points: Tensor, height: int, width: int) -> Tensor:
    """From coordinates in [-1,1] to pixels, [...,2] as (x, y)."""
    return (points + 1) / 2 * points.new_tensor([width, height])


class Form:
    """Any affine map: the six numbers of its matrix, by rows."""

    whole: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # the identity: the window is the whole image

    def __init__(self, sizes: Sizes) -> None:
        self.aspect = sizes.height / sizes.width

    def matrix(self, window: Tensor) -> Tensor:
        """From a window's numbers, [B,numbers], to its matrix, by rows, [B,6]."""
        return window

    def sample(self, image: Tensor, window: Tensor, height: int, width: int) -> Tensor:
        """ST(x, lambda): `image` [B,C,h,w] -> [B,C,height,width]."""
        return ops.affine_sample(image, self.matrix(window), height, width)


class SimilarityForm(Form):
    """Shift, one angle, one scale: (s, angle, t_x, t_y). Angles are those of pixels, whatever the image's shape.

    The scale is s itself, which starts at 1 and may pass through zero, where the window is turned by half a turn.
    """

    whole = (1.0, 0.0, 0.0, 0.0)

    def matrix(self, window: Tensor) -> Tensor:
        """s (cos, -sin; sin, cos) in pixels, and the shift."""
        scale, angle, shift_x, shift_y = window.unbind(1)
        along, across = scale * angle.cos(), scale * angle.sin()
        return torch.stack([along, -across * self.aspect, shift_x, across / self.aspect, along, shift_y], 1)


class AxisAlignedForm(Form):
    """Upright, stretched along each axis: (s_x, s_y, t_x, t_y); the map is K_h X K_w^T."""

    whole = (1.0, 1.0, 0.0, 0.0)

    def matrix(self, window: Tensor) -> Tensor:
        """(s_x, 0, t_x; 0, s_y, t_y)."""
        return ops.axis_aligned_matrix(window)

    def sample(self, image: Tensor, window: Tensor, height: int, width: int) -> Tensor:
        """See Form."""
        return ops.axis_aligned_sample(image, window, height, width)
