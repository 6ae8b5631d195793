"""Layers of latents, each drawn once: the VAE, deep latent Gaussian models, sigmoid belief nets, DARN.

A layer is a step whose weights are its own; t = 1 is the top one. With T = 1 it is the VAE (Kingma & Welling 2014).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seqgen.models.contracts import Drawn, Latents, Make, Memory, Observation, Sizes, Step
from seqgen.models.layers import Linear


class State(NamedTuple):
    """h_t [B,D] with the transition's memory, and the canvas, which only the last layer makes."""

    h: Tensor
    memory: Memory
    canvas: Tensor


class LayersStep(Step):
    """z_t ~ p(z_t | h_{t-1}), h_t = f_t(h_{t-1}, z_t), x ~ p(x | f(h_T)); q(z_t | h_{t-1}, e(x)), e(x) = tanh(W x + b).

    | member | latent | prior | transition | inference | source |
    |---|---|---|---|---|---|
    | DLGM | gaussian | standard-normal | residual | mean-field | Rezende et al. 2014, eqs. 1-4 |
    | SBN | bernoulli | learned | latent | shared | Mnih & Gregor 2014 |
    | DARN | bernoulli | autoregressive | latent | shared | Gregor et al. 2014, whose pixels are autoregressive too |

    SBN and DARN are inferred bottom-up in their papers, q(z_T | x) q(z_{T-1} | z_T) ...; here top-down, in the order
    they are drawn in, so that q's layer t is told what is above it. Of all layers K and D are the same.
    """

    def __init__(self, config: Any, sizes: Sizes, make: Make) -> None:
        super().__init__(config, sizes, make)
        pixels = sizes.height * sizes.width
        self.latents: Latents = make("latent")
        self.see = Linear(pixels, config.encoder_hidden)
        each, parameters = range(sizes.steps), self.latents.parameters_of_q
        self.prior = nn.ModuleList(make("prior", 0, parameters) for _ in each)
        self.posterior = nn.ModuleList(make("inference", config.encoder_hidden, parameters) for _ in each)
        self.transition = nn.ModuleList(make("transition", sizes.latents) for _ in each)
        self.observation: Observation = make("observation")
        self.decoder = Decoder(sizes, config.decoder_hidden, self.observation.initial_canvas)

    def start(self, batch: int) -> State:
        """h_0 of the top layer's transition; an empty canvas."""
        h, memory = self.transition[0].start(batch)  # type: ignore[operator]
        return State(h, memory, self.decoder.blank(batch))

    def observe(self, x: Tensor | None, context: Tensor | None) -> Tensor | None:
        """e(x) [B, encoder_hidden]."""
        x = super().observe(x, context)
        return None if x is None else self.see(x.flatten(1)).tanh()

    def forward(self, t: int, state: State, noise: Tensor, observed: Tensor | None) -> tuple[State, Drawn]:
        """Layer t, counted from the top."""
        h = state.h
        p = self.prior[t](h, None)
        q: tuple[Tensor, ...] = ()
        if observed is None:
            z = self.latents.draw_from_prior(p, noise)
        else:
            z, q = self.latents.draw(self.posterior[t](observed, h, ())[0], noise)
        h, memory = self.transition[t]([z], h, state.memory)
        last = t + 1 == len(self.transition)
        return State(h, memory, self.decoder(h) if last else state.canvas), Drawn(z, q, p)


class Decoder(nn.Module):
    """f(h_T) as a canvas, [B,Cc,H,W]: W h + b or, with a hidden layer, W tanh(W' tanh(h) + b') + b."""

    def __init__(self, sizes: Sizes, hidden: int, initial: float) -> None:
        super().__init__()
        self.shape, self.initial = (sizes.canvas_channels, sizes.height, sizes.width), initial
        self.inner = Linear(sizes.hidden, hidden) if hidden else None
        self.canvas = Linear(hidden or sizes.hidden, sizes.canvas_channels * sizes.height * sizes.width)
        with torch.no_grad():
            self.canvas.bias.fill_(initial)

    def blank(self, batch: int) -> Tensor:
        """A canvas on which nothing was drawn."""
        return self.canvas.bias.new_full((batch, *self.shape), self.initial)

    def forward(self, h: Tensor) -> Tensor:
        """`h` [B,D]."""
        inner = h if self.inner is None else self.inner(h.tanh()).tanh()
        return self.canvas(inner).view(-1, *self.shape)
