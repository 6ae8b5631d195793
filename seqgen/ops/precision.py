"""What stays in float32 when a model computes in half precision."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(values: Tensor) -> Tensor:
    """`values` in float32 if they are of less: sums in nats and places on the image are never in half precision."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
