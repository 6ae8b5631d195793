"""From one image to another through the latent variables.

What is interpolated is a posterior sample of z of each, as the prior's noise (`SequentialModel.encode`), and not the
parameters of q: q(z_t | z_{<t}, x) depends on the z that was drawn before it and is nowhere between two images. Under
N(0, I) noise and z are the same; a learned p(z_t | h) is followed along the way.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from seqgen.core.errors import BadInput
from seqgen.data.batches import generator_at
from seqgen.evaluation.bounds import HeldOut, random_order
from seqgen.models import SequentialModel

_CPU = torch.device("cpu")


class Ends(NamedTuple):
    """Pairs of images, uint8 [N,1,H,W] each, what context both have, if any, and where the first ones stand."""

    first: Tensor
    second: Tensor
    context: Tensor | None
    chosen: Tensor


class Walk(NamedTuple):
    """The ways between pairs of images: the noise of both ends, [T,N,K] each, and the context of both."""

    model: SequentialModel
    first: Tensor
    second: Tensor
    context: Tensor | None

    @torch.no_grad()
    def at(self, share: float) -> Distribution:
        """p(x | z) at `share` of the way, 0 at the first end and 1 at the second."""
        return self.model.decode(spherical(self.first, self.second, share), self.context)


def pick_ends(held_out: HeldOut, count: int, seed: int) -> Ends:
    """`count` random pairs of different images, from `seed`; fewer where the split is smaller.

    With contexts, of which each image needs two, the second end is one of them and the other one is given for both: a
    pair is two drawings of one character, say. Raises BadInput if there is no pair.
    """
    order = random_order(len(held_out), seed, "interpolation")
    if held_out.context is None:
        count = min(count, len(order) // 2)
        first, second = order[:count], order[count : 2 * count]
        ends = Ends(held_out.x[first], held_out.x[second], None, first)
    else:
        first = order[:count]
        given, other = held_out.context[first].split(1, dim=1)
        ends = Ends(held_out.x[first], other, given, first)
    if not len(ends.chosen):
        raise BadInput("a way needs two images; raise evaluate.images")
    return ends


@torch.no_grad()
def walk(model: SequentialModel, ends: Ends, seed: int) -> Walk:
    """One posterior sample of z of every image, from `seed`."""
    device = next(model.parameters()).device
    context = None if ends.context is None else ends.context.to(device).float()

    def encoded(x: Tensor, name: str) -> Tensor:
        noise = model.noise(len(x), generator_at(_CPU, seed, "interpolation", name))
        return model.encode(x.to(device).float(), context, noise.to(device))

    return Walk(model, encoded(ends.first, "first"), encoded(ends.second, "second"), context)


def spherical(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Between two noises [T,B,K], each image's T K numbers one vector, on a great circle (Shoemake 1985).

        (sin((1 - share) a) first + sin(share a) second) / sin a,    a the angle between them

    On a straight line the middle of two independent draws of N(0, I) is shorter by sqrt 2 than any draw is: a z that
    the prior hardly ever has. Two draws of like length stay as long on this one.
    """
    start, end = first.double(), second.double()
    length = (start.square().sum((0, 2)) * end.square().sum((0, 2))).sqrt()
    cosine = (start * end).sum((0, 2)) / length.clamp(min=1e-12)
    angle = cosine.clamp(-1 + 1e-9, 1 - 1e-9).arccos()[
        :, None
    ]  # where sin a is 0 a straight line, or any way
    towards = ((1 - share) * angle).sin() * start + (share * angle).sin() * end
    return (towards / angle.sin()).to(first.dtype)


def mixed_pixels(ends: Ends, seed: int) -> Tensor:
    """Halfway without latent variables: each pixel of one of the two images, at random from `seed`."""
    of_first = torch.rand(ends.first.shape, generator=generator_at(_CPU, seed, "mixed pixels")) < 0.5
    return torch.where(of_first, ends.first, ends.second)
