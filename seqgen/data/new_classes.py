"""New classes out of old ones: one random map of an image and of its contexts alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from seqgen.data.affine_maps import affine_maps

_SHARE = 0.5  # of the images; and of those, the share that is also turned and stretched
_TURN, _SHEAR, _STRETCH, _SHIFT = math.radians(12), 0.15, 0.15, 0.08  # the largest; shifts in half images


def random_maps(batch: int, generator: torch.Generator) -> Tensor:
    """One map an image, [batch,2,3], as `affine_grid` takes it: the identity, or one that makes a new class.

    Half of the images keep what they are. The others are mapped by one of the eight flips and transpositions of a
    square, which change no stroke, and half of those are also turned, stretched, sheared and moved a little.
    """
    device = generator.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    mapped, warped = uniform(batch) < _SHARE, uniform(batch) < _SHARE
    signs, transposed = (uniform(batch, 2) < 0.5).float() * 2 - 1, uniform(batch) < 0.5
    amount = (uniform(batch, 6) * 2 - 1) * warped.unsqueeze(1)
    identity = torch.eye(2, device=device).expand(batch, 2, 2)
    square = torch.where(transposed.view(-1, 1, 1), identity.flip(1), identity) * signs.unsqueeze(1)
    maps = affine_maps(
        _TURN * amount[:, 0], _SHEAR * amount[:, 1], _STRETCH * amount[:, 2:4], _SHIFT * amount[:, 4:]
    )
    maps = torch.cat([square @ maps[:, :, :2], maps[:, :, 2:]], 2)
    nothing = torch.eye(2, 3, device=device).expand(batch, 2, 3)
    return torch.where(mapped.view(-1, 1, 1), maps, nothing)


def same_map(x: Tensor, context: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """`x` [B,1,H,H] and its `context` [B,N,H,H], in {0,1}, by `maps` [B,2,3]; bilinear, ink where above 1/2."""
    both = torch.cat([x, context], 1)
    grid = functional.affine_grid(maps, list(both.shape), align_corners=False)
    moved = functional.grid_sample(both, grid, align_corners=False).gt(0.5).to(x.dtype)
    return moved[:, :1], moved[:, 1:]
