"""Whether samples are copies: how far each is from the nearest training image, beside how far people's drawings are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from seqgen.evaluation.errors import Clustered, clustered

SHIFT = 1  # pixels; a drawing is laid over an image at every shift of up to so many
_DRAWINGS, _IMAGES = 500, 2000  # at once: 36 MB of overlaps


@dataclass(frozen=True)
class Nearest:
    """The nearest image of every drawing, on the CPU: its index, int64 [N], and its distance, float64 [N]."""

    index: Tensor
    distance: Tensor


@torch.no_grad()
def nearest(drawings: Tensor, images: Tensor, device: torch.device | None = None) -> Nearest:
    """The nearest of `images` [M,H,W] to each of `drawings` [N,H,W], both in {0,1}, M >= 1; the first of several.

    The distance is the pixels in which two differ as a share of the ink of both, (|a| + |b| - 2 a.b) / (|a| + |b|): 0
    between equal images, 1 where no ink is shared; the least over all shifts of up to `SHIFT` pixels. The count of
    pixels alone says how little ink there is (correlation with the ink of Omniglot's drawings 0.93, the share's 0.45):
    a blot would be a copy of every simple character. All a.b are products of matrices, in parts of bounded memory.
    """
    device = device or torch.device("cpu")
    index, distance = [], []
    for some in drawings.to(device).split(_DRAWINGS):
        shifted, ink = _shifted(some), some.flatten(1).sum(1)
        best = torch.full((len(some),), math.inf, dtype=torch.float64, device=device)
        chosen = torch.zeros(len(some), dtype=torch.int64, device=device)
        for number, part in enumerate(images.split(_IMAGES)):
            flat = part.to(device).flatten(1).float()
            overlap = (shifted.flatten(0, 1) @ flat.T).view(len(shifted), len(some), len(flat)).amax(0)
            apart = _distance(ink.unsqueeze(1), flat.sum(1), overlap)
            first = apart.argmin(1)
            least = apart.gather(1, first.unsqueeze(1)).squeeze(1)
            chosen = torch.where(least < best, first + number * _IMAGES, chosen)
            best = torch.minimum(least, best)
        index.append(chosen.cpu())
        distance.append(best.cpu())
    return Nearest(torch.cat(index), torch.cat(distance))


def distances(drawings: Tensor, images: Tensor) -> Tensor:
    """The distance of each drawing to the image in its place, both [N,H,W] in {0,1}: float64 [N]."""
    flat = images.flatten(1).float()
    overlap = (_shifted(drawings) * flat).sum(2).amax(0)
    return _distance(drawings.flatten(1).sum(1), flat.sum(1), overlap)


def threshold(people: Tensor, share: float) -> float:
    """How far the `share` of people's drawings that are nearest to a training image are from it; `people` [N]."""
    return float(people.sort().values[max(0, math.ceil(share * len(people)) - 1)])


def share_of_copies(
    samples: Tensor,
    people: Tensor,
    share: float,
    groups: Tensor | None = None,
    alphabets: Tensor | None = None,
) -> Clustered:
    """The share of samples no farther from a training image than the nearest `share` of people's drawings are.

    `samples` and `people` are distances [N], paired: of the same characters. The errors are those of the difference to
    people's own share, for the threshold is an estimate too; `groups` and `alphabets` as in `clustered`.
    """
    limit = threshold(people, share)
    ours, theirs = samples.le(limit).double(), people.le(limit).double()
    return clustered(ours - theirs, groups, alphabets)._replace(value=ours.mean().item())


def _distance(ink: Tensor, other: Tensor, overlap: Tensor) -> Tensor:
    both = (ink + other).double()
    return (both - 2 * overlap.double()) / both.clamp(min=1)


def _shifted(drawings: Tensor) -> Tensor:
    """The `drawings` [N,H,W] at every shift, cut at the border: float32 [S,N,HW]."""
    height, width = drawings.shape[1:]
    padded = functional.pad(drawings.float(), [SHIFT] * 4)
    steps = range(2 * SHIFT + 1)
    return torch.stack([padded[:, y : y + height, x : x + width].flatten(1) for y in steps for x in steps])
