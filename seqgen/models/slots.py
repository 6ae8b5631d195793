"""What each slot of the generator must be. A new kind is a new module beside the others, and a line in `members`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqgen.models.linear import StepLinear


class Reader(nn.Module):
    """Reads `features` numbers from an image: forward(prepared, h [B,D]) -> [B, features]."""

    features: int
    fixed = False  # whether what it reads depends on the image alone, not on h

    def prepare(self, image: Tensor) -> Tensor:
        """What does not depend on h, from `image` [B,C,H,W]: computed once for all T steps."""
        return image

    def read_error(self, x: Tensor, logits: Tensor, h: Tensor) -> Tensor:
        """Reads x beside the error x - sigmoid(logits), both [B,1,H,W] (DRAW eqs. 3-4)."""
        return self(self.prepare(torch.cat([x, x - logits.sigmoid()], 1)), h)

    def corners(self, h: Tensor, height: int, width: int) -> Tensor | None:
        """The window's corners on the image in pixels, [B,4,2] as (x, y); None if there is no window."""
        return None


class Writer(nn.Module):
    """Writes on the canvas, f_w: forward(h [B,D]) -> [B,C,H,W]."""

    sprite: StepLinear  # from h to what is written

    def corners(self, h: Tensor, height: int, width: int) -> Tensor | None:
        """The window's corners on the canvas in pixels, [B,4,2] as (x, y); None if there is no window."""
        return None


class Posterior(nn.Module):
    """q(z_t | z_{<t}, x): forward(glimpse [B,F], h [B,D], state, share) -> mean and log sigma [B,2K], state.

    `state` is a pair of [B, state_size], the recurrence of the posterior's own. A glimpse that is the same at every
    step is given once, to `share`, and then what that returned instead of it.
    """

    state_size: int
    head: StepLinear  # to mean and log sigma

    def share(self, glimpse: Tensor) -> Tensor | None:
        """What a fixed glimpse [B,F] gives at every step; None if it is not fixed."""
        raise NotImplementedError


class Observation(nn.Module):
    """p(x | c_T): forward(canvas [B,C,H,W]) -> Bernoulli logits [B,1,H,W]; `initial_canvas` is where c_0 starts."""

    initial_canvas: float
