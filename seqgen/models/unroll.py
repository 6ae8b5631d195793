"""The loop over t."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from seqgen.ops import Repeated

Advance = Callable[[int, Any, Tensor], tuple[Any, Any]]


def unroll(advance: Advance, state: Any, noise: Tensor, *, recompute: int = 0) -> tuple[Any, Any]:
    """`state, drawn = advance(t, state, noise[t])` for t = 0..T-1: the last state, and all that was drawn, [T,B,...].

    `state` and `drawn` are trees of tensors, `noise` is [T,B,K]. With `recompute` only the states between so many steps
    are kept for the backward pass, which computes the steps again (Chen et al. 2016).
    """
    run = Repeated()

    def steps(first: int, state: Any, noise: Tensor) -> tuple[Any, Any]:
        drawn = []
        with run.inside():
            for t, noise_t in enumerate(noise, start=first):
                state, left = advance(t, state, noise_t)
                drawn.append(left)
        return state, tree_map(lambda *parts: torch.stack(parts), *drawn)

    if not recompute or not torch.is_grad_enabled():
        return steps(0, state, noise)
    segments = []
    for first in range(0, len(noise), recompute):
        state, drawn = checkpoint(
            steps,
            first,
            state,
            noise[first : first + recompute],
            use_reentrant=False,
            preserve_rng_state=False,
            determinism_check="none",
        )
        segments.append(drawn)
    return state, tree_map(lambda *parts: torch.cat(parts), *segments)
