"""z in buckets of equal mass under the prior, pushed on a stack and popped from it under the posterior.

A bucket is a number of BITS bits, its most significant bit first: each says in which half of what is left z lies, under
a Gaussian with probability Phi(high) - Phi(middle) of Phi(high) - Phi(low). Under the prior all bits are fair.
"""

from __future__ import annotations

import functools
from typing import Any

import constriction
import torch
from torch import Tensor

BITS = 16
Stack = Any  # constriction.stream.stack.AnsCoder, which has no types
_BIT = constriction.stream.model.Bernoulli(perfect=False)  # no outcome is less probable than 2^-24
_FAIR = constriction.stream.model.Uniform(2**BITS)


def centres(bucket: Tensor) -> Tensor:
    """The median of N(0, 1) within each bucket: int64 -> float32, of the same shape."""
    return torch.special.ndtri((bucket.double() + 0.5) / 2**BITS).float()


def pop(stack: Stack, mean: Tensor, std: Tensor) -> Tensor:
    """Buckets drawn from N(mean, std^2), float64 of one shape, by the bits on the stack: int64 of that shape."""
    bucket = torch.zeros(mean.shape, dtype=torch.int64)
    for width in _widths():
        bits = stack.decode(_BIT, _upper(bucket, width, mean, std).flatten().numpy())
        bucket += width * torch.from_numpy(bits).view(mean.shape)
    return bucket


def push(stack: Stack, bucket: Tensor, mean: Tensor, std: Tensor) -> None:
    """Undo `pop`: -log2 of the buckets' probability in bits come back."""
    for width in reversed(_widths()):
        begun = bucket // (2 * width) * (2 * width)
        bits = ((bucket - begun) // width).int()
        upper = _upper(begun, width, mean, std)
        stack.encode_reverse(bits.flatten().numpy(), _BIT, upper.flatten().numpy())


def pop_from_prior(stack: Stack, *shape: int) -> Tensor:
    """Buckets of that shape under N(0, 1), BITS bits each."""
    bucket = stack.decode(_FAIR, torch.Size(shape).numel())
    return torch.from_numpy(bucket).long().view(shape)


def push_under_prior(stack: Stack, bucket: Tensor) -> None:
    """Undo `pop_from_prior`."""
    stack.encode_reverse(bucket.int().flatten().numpy(), _FAIR)


def pop_pixels(stack: Stack, probability: Tensor) -> Tensor:
    """Pixels, 1 with `probability` [B,1,H,W]: float32 in {0, 1} of that shape."""
    pixels = stack.decode(_BIT, probability.flatten().numpy())
    return torch.from_numpy(pixels).float().view(probability.shape)


def push_pixels(stack: Stack, pixels: Tensor, probability: Tensor) -> None:
    """Undo `pop_pixels`."""
    stack.encode_reverse(pixels.int().flatten().numpy(), _BIT, probability.flatten().numpy())


def _upper(bucket: Tensor, width: int, mean: Tensor, std: Tensor) -> Tensor:
    """The probability that z is in the upper half of the 2 `width` buckets that begin with `bucket`.

    Where both halves have lost all their mass to rounding it is 1/2: such a place is reached once in 2^24.
    """
    low, middle, high = (
        torch.special.ndtr((_edges()[bucket + part * width] - mean) / std) for part in range(3)
    )
    return ((high - middle) / (high - low)).nan_to_num(0.5).clamp(0.0, 1.0)


@functools.cache
def _edges() -> Tensor:
    """Where the buckets begin and end under N(0, 1), from -inf to inf: float64 [2^BITS + 1]."""
    return torch.special.ndtri(torch.arange(2**BITS + 1, dtype=torch.float64) / 2**BITS)


def _widths() -> list[int]:
    """Half of what is left, in buckets, at each bit."""
    return [2**bit for bit in reversed(range(BITS))]
