"""Convolutional DRAW (Gregor et al. 2016, arXiv:1604.08772), as the core of GQN has it (Eslami et al. 2018).

Where DRAW has vectors and attention, h_t and z_t here are maps of the image's size / S, and a step writes everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from seqgen.models.contracts import Drawn, Latents, Make, Observation, Sizes, Step
from seqgen.models.priors import prior_parameters
from seqgen.ops import full_precision


class State(NamedTuple):
    """What one step hands to the next: the decoder's h and cell, the canvas u [B,Cc,H,W], the encoder's h and cell.

    Maps are [B,D,H/S,W/S].
    """

    h: Tensor
    cell: Tensor
    canvas: Tensor
    encoder_h: Tensor
    encoder_cell: Tensor


class ConvolutionalStep(Step):
    """K latents and D channels a place of maps of H/S x W/S, S the settings' `scale`:

    p(z_t) = p(conv(h_{t-1})); h^e_t = ConvLSTM(h^e_{t-1}, [down([x ; x - x_hat_{t-1}]) ; h_{t-1}]),
    q(z_t) = q(conv(h^e_t)), relative to p; h_t = ConvLSTM(h_{t-1}, z_t); u_t = u_{t-1} + up(h_t);
    x_hat_t = mean of p(x | f_o(u_t)). `down` and `up` are a convolution and a transposed one of stride S.
    """

    def __init__(self, config: Any, sizes: Sizes, make: Make) -> None:
        super().__init__(config, sizes, make)
        scale, hidden = config.scale, sizes.hidden
        self.maps = sizes.height // scale, sizes.width // scale
        places = self.maps[0] * self.maps[1]
        self.latents: Latents = make("latent", sizes=sizes._replace(latents=sizes.latents * places))
        self.observation: Observation = make("observation")
        self.parts = self.latents.parameters_of_q // self.latents.size
        parameters = self.parts * sizes.latents
        # Windows of 2S overlap by half: with S alone each place would see and write a tile of its own.
        overlapping = {"kernel_size": 2 * scale, "stride": scale, "padding": scale // 2}
        self.down = nn.Conv2d(2, hidden, **overlapping)
        self.encoder = ConvLstmCell(2 * hidden, hidden)
        self.prior = Convolution(hidden, parameters)
        self.posterior = Convolution(hidden, parameters)
        self.decoder = ConvLstmCell(sizes.latents, hidden)
        self.up = nn.ConvTranspose2d(hidden, sizes.canvas_channels, **overlapping)
        with torch.no_grad():  # N(0, I) and Bernoulli(1/2) at first, as the learned prior of the other steps
            self.prior.weight.zero_()
        self.h0, self.cell0 = (nn.Parameter(torch.zeros(hidden)) for _ in range(2))
        self.canvas0 = nn.Parameter(torch.full((sizes.canvas_channels,), self.observation.initial_canvas))

    def start(self, batch: int) -> State:
        """h_0, cell_0 and u_0 are learned, a number a channel; the encoder's are zero."""
        h, cell = (start.view(1, -1, 1, 1).expand(batch, -1, *self.maps) for start in (self.h0, self.cell0))
        canvas = self.canvas0.view(1, -1, 1, 1).expand(batch, -1, self.sizes.height, self.sizes.width)
        return State(h, cell, canvas, torch.zeros_like(h), torch.zeros_like(cell))

    def forward(self, t: int, state: State, noise: Tensor, observed: Tensor | None) -> tuple[State, Drawn]:
        """The equations of one step; they are the same at every t."""
        encoder_h, encoder_cell = state.encoder_h, state.encoder_cell
        p = prior_parameters(self.prior(state.h).flatten(1), self.parts)
        q: tuple[Tensor, ...] = ()
        if observed is None:
            z = self.latents.draw_from_prior(p, noise)
        else:
            seen = self.observation.beside_error(observed, self.observation(state.canvas))
            encoder_h, encoder_cell = self.encoder((self.down(seen), state.h), encoder_h, encoder_cell)
            z, q = self.latents.draw(self.posterior(encoder_h).flatten(1) + torch.cat(p, 1), noise)
        h, cell = self.decoder((z.unflatten(1, (-1, *self.maps)),), state.h, state.cell)
        canvas = state.canvas + full_precision(self.up(h))
        return State(h, cell, canvas, encoder_h, encoder_cell), Drawn(z, q, p)


class Convolution(nn.Conv2d):
    """3 x 3, the size of the maps kept: `maps` [B,C_1,h,w], [B,C_2,h,w], ... stand one upon another -> [B,O,h,w]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, *maps: Tensor) -> Tensor:
        """Under autocast the product alone is in half precision."""
        return full_precision(super().forward(torch.cat(maps, 1)))


class ConvLstmCell(nn.Module):
    """An LSTM's step whose linear maps are convolutions (Shi et al. 2015), without peepholes."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.gates = Convolution(inputs + hidden, 4 * hidden)
        assert self.gates.bias is not None
        with torch.no_grad():
            self.gates.bias[hidden : 2 * hidden] = 1.0  # remember at first

    def forward(self, inputs: Sequence[Tensor], h: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """`inputs` [B,_,h,w] in parts, `h` and `cell` [B,D,h,w] -> the next h and cell."""
        i, f, g, o = self.gates(*inputs, h).chunk(4, 1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell
