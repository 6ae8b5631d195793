"""Affine maps of drawings, as `affine_grid` takes them."""

from __future__ import annotations

import torch
from torch import Tensor


def affine_maps(turn: Tensor, shear: Tensor, log_stretch: Tensor, shift: Tensor) -> Tensor:
    """[B,2,3] from angles `turn` [B], slopes `shear` [B], `log_stretch` [B,2] and `shift` [B,2] in half images.

    An output's point is stretched along each axis, sheared, turned and moved, and there the input is read.
    """
    rotation = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], 1).view(-1, 2, 2)
    slant = torch.stack([torch.ones_like(shear), shear, torch.zeros_like(shear), torch.ones_like(shear)], 1)
    stretch = torch.diag_embed(log_stretch.exp())
    return torch.cat([rotation @ slant.view(-1, 2, 2) @ stretch, shift.unsqueeze(2)], 2)
