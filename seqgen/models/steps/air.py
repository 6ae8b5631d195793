"""Attend, infer, repeat (Eslami et al. 2016): an image is a few objects, each of them somewhere and something."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from seqgen import ops
from seqgen.models.attention.forms import SQUARE, pixels
from seqgen.models.contracts import Drawn, Latents, Make, Observation, Sizes, Step, Windows
from seqgen.models.latents import log_probability
from seqgen.models.layers import Linear, LstmCell, WindowHead

_WHERE = 3  # log scale, x, y
# What presence's logit is multiplied by, so that it moves slowly under Adam. An object must be worth something alone
# before it is sure: else three that are blurred share a digit, and stay.
_SLOWLY = 0.1


class AirLatents(Latents):
    """z_t = [present ; where ; what], 1 + 3 + K numbers, all zero where the object is absent.

    present_t ~ Bernoulli(p) after an object that is present, else 0: once there is none there are no more. where and
    what ~ N(0, I); of an absent object there is nothing to say and nothing to pay. q = (logit of present [B,1], mean
    and log sigma of [where ; what], [B,3+K]); p = (present_{t-1} [B,1],).
    """

    prior_logit: Tensor

    def __init__(self, settings: Any, sizes: Sizes) -> None:
        super().__init__(settings, sizes)
        self.size = 1 + _WHERE + sizes.latents
        logit = math.log(settings.presence) - math.log1p(-settings.presence)
        self.register_buffer("prior_logit", torch.tensor(logit), persistent=False)

    def noise(self, steps: int, batch: int, generator: Generator) -> Tensor:
        """Uniform on [0, 1) for presence, then standard normal for where and what."""
        device = generator.device
        uniform = torch.rand(steps, batch, 1, generator=generator, device=device)
        normal = torch.randn(steps, batch, self.size - 1, generator=generator, device=device)
        return torch.cat([uniform, normal], 2)

    def present(self, logit: Tensor, before: Tensor, noise: Tensor) -> Tensor:
        """[B,1]: 1 where there was one `before` and the noise is below sigmoid(logit)."""
        return before * (noise[:, :1] < logit.sigmoid()).to(noise.dtype)

    def draw_from_prior(self, p: tuple[Tensor, ...], noise: Tensor) -> Tensor:
        """where and what are the noise."""
        present = self.present(self.prior_logit, p[0], noise)
        return present * torch.cat([torch.ones_like(present), noise[:, 1:]], 1)

    def kl(self, z: Tensor, q: tuple[Tensor, ...], p: tuple[Tensor, ...]) -> Tensor:
        """Closed forms: that of presence after an object, those of where and what for one that z has."""
        logit, mean, log_std = q
        probability = ops.full_precision(logit).sigmoid()
        presence = log_probability(probability, logit) - log_probability(probability, self.prior_logit)
        return (p[0] * presence).squeeze(-1) + z[..., 0] * ops.standard_normal_kl(mean, log_std)

    def log_ratio(self, z: Tensor, q: tuple[Tensor, ...], p: tuple[Tensor, ...]) -> Tensor:
        """log p(z) - log q(z)."""
        logit, mean, log_std = q
        present, drawn = z[..., :1], z[..., 1:]
        presence = log_probability(present, self.prior_logit) - log_probability(present, logit)
        under_q = ((drawn - mean) * (-log_std).exp()).square()
        rest = (0.5 * (under_q - drawn.square()) + log_std).sum(-1)
        return (p[0] * presence).squeeze(-1) + present.squeeze(-1) * rest

    def score(self, z: Tensor, q: tuple[Tensor, ...]) -> Tensor:
        """log q(present_t), after an object."""
        present = z[..., :1]
        before = torch.cat([torch.ones_like(present[:1]), present[:-1]])
        return (before * log_probability(present, q[0])).squeeze(-1)

    def counts(self, z: Tensor) -> Tensor:
        """The number of objects, z [T,B,1+3+K] -> int64 [B]."""
        return z[..., 0].sum(0).long()


class State(NamedTuple):
    """What one step hands to the next: z_t [B,1+3+K], the inference LSTM's h and cell [B,D], the canvas."""

    z: Tensor
    h: Tensor
    cell: Tensor
    canvas: Tensor


class Observed(NamedTuple):
    """x [B,1,H,W] and the features of it that the LSTM sees, [B,D]; None under the prior."""

    x: Tensor | None
    features: Tensor | None


class AttendInferRepeat(Step):
    """c_t = c_{t-1} + present_t ST(softplus(sprite(what_t)), where_t): an object adds ink inside its window.

    q(present_t) and q(where_t) come from an LSTM of [features of x ; z_{t-1}], q(what_t) from the glimpse of x in the
    window where_t. Windows are upright: the side is exp(s) of the image's, the centre (x, y) in [-1,1], and (s, x, y)
    are where_t times the prior's deviations, about its means.
    """

    latents: AirLatents
    centre: Tensor
    spread: Tensor

    def __init__(self, config: Any, sizes: Sizes, make: Make) -> None:
        super().__init__(config, sizes, make)
        settings = config.of("step")
        self.side = settings.object_size
        self.latents = AirLatents(settings, sizes)
        self.observation: Observation = make("observation")
        self.features = Linear(sizes.height * sizes.width, sizes.hidden)
        self.cell = LstmCell(sizes.hidden + self.latents.size, sizes.hidden)
        self.presence = WindowHead(sizes.hidden, [-0.5 / _SLOWLY])
        self.where = WindowHead(sizes.hidden, [0.0] * _WHERE + [-1.0] * _WHERE)
        pixels, width = self.side**2, settings.object_hidden
        self.what = nn.Sequential(Linear(pixels, width), nn.ReLU(), Linear(width, 2 * sizes.latents))
        last = Linear(width, pixels)
        nn.init.constant_(last.bias, -2.0)  # hardly any ink at first
        self.sprite = nn.Sequential(Linear(sizes.latents, width), nn.ReLU(), last)
        self.canvas0 = nn.Parameter(torch.tensor(self.observation.initial_canvas))
        place = settings.place_std
        centre = torch.tensor([math.log(settings.object_scale), 0.0, 0.0])
        self.register_buffer("centre", centre, persistent=False)
        self.register_buffer("spread", torch.tensor([settings.scale_std, place, place]), persistent=False)

    def start(self, batch: int) -> State:
        """As after an object, of which nothing is known; h and cell are zero, the canvas is one learned number."""
        z = self.canvas0.new_zeros(batch, self.latents.size)
        z[:, 0] = 1.0
        h = z.new_zeros(batch, self.sizes.hidden)
        return State(z, h, h, self.canvas0.expand(batch, 1, self.sizes.height, self.sizes.width))

    def observe(self, x: Tensor | None, context: Tensor | None) -> Observed:
        """See Observed."""
        x = super().observe(x, context)
        return Observed(x, None if x is None else self.features(x.flatten(1)).relu())

    def forward(self, t: int, state: State, noise: Tensor, observed: Observed) -> tuple[State, Drawn]:
        """One object; the equations are the same at every t."""
        before, h, cell = state.z[:, :1], state.h, state.cell
        q: tuple[Tensor, ...] = ()
        if observed.x is None or observed.features is None:
            z = self.latents.draw_from_prior((before,), noise)
        else:
            h, cell = self.cell((observed.features, state.z), h, cell)
            logit = _SLOWLY * self.presence(h)
            present = self.latents.present(logit, before, noise)
            where, *q_where = ops.draw(self.where(h), noise[:, 1 : 1 + _WHERE])
            glimpse = self.read(observed.x, where)
            what, *q_what = ops.draw(self.what(glimpse.flatten(1)), noise[:, 1 + _WHERE :])
            z = present * torch.cat([torch.ones_like(present), where, what], 1)
            q = (logit, *(torch.cat(parts, 1) for parts in zip(q_where, q_what, strict=True)))
        return State(z, h, cell, state.canvas + self.write(z)), Drawn(z, q, (before,))

    def read(self, x: Tensor, where: Tensor) -> Tensor:
        """The glimpse of x in the window, [B,1,P,P]."""
        side, centre = self._window(where)
        return ops.axis_aligned_sample(x, torch.cat([side, side, centre], 1), self.side, self.side)

    def write(self, z: Tensor) -> Tensor:
        """What an object adds to the canvas, [B,1,H,W]: the map from canvas to sprite is the inverse of reading's."""
        present, where, what = z.split([1, _WHERE, self.sizes.latents], 1)
        side, centre = self._window(where)
        sprite = functional.softplus(self.sprite(what)).view(-1, 1, self.side, self.side)
        size = self.sizes.height, self.sizes.width
        return present[:, :, None, None] * ops.axis_aligned_sample(
            sprite, torch.cat([1 / side, 1 / side, -centre / side], 1), *size
        )

    def windows(self, before: State, after: State, noise: Tensor, observed: Observed) -> Windows:
        """An object is read through the window that it is written through; an absent one's is a point."""
        side, centre = self._window(after.z[:, 1 : 1 + _WHERE])
        points = centre[:, None] + (after.z[:, :1] * side)[:, None] * SQUARE.to(side)
        corners = pixels(points, self.sizes.height, self.sizes.width).unsqueeze(1)
        return Windows(None if observed.x is None else corners, corners, None)

    def _window(self, where: Tensor) -> tuple[Tensor, Tensor]:
        """The window's side [B,1] as a share of the image's, and its centre [B,2] in [-1,1]."""
        where = self.centre + self.spread * where
        return where[:, :1].exp(), where[:, 1:]
