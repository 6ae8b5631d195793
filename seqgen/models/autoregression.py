"""Observations of binary pixels that depend on those before them, row by row: p(x | c) = prod_i p(x_i | x_{<i}, c)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional

from seqgen.models.contracts import Sizes
from seqgen.models.observations import BernoulliObservation, ConvObservation, IdentityObservation
from seqgen.ops import full_precision


class AutoregressivePixels(BernoulliObservation):
    """What all of them have in common; a kind says what a pixel's logit is given those before it."""

    pictures = "probabilities of each pixel, given a sample of those before it"

    def given(self, parameters: Tensor, x: Tensor) -> Tensor:
        """The logits [B,1,H,W] of every pixel of `x`, given those before it."""
        raise NotImplementedError

    def in_order(self, parameters: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Every pixel's probability given the values before it; its value, 1 where `uniform` is below it: [B,1,H,W]."""
        raise NotImplementedError

    def log_likelihood(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Summed over pixels; x in {0,1}."""
        return super().log_likelihood(self.given(parameters, x), x)

    def mean(self, parameters: Tensor) -> Tensor:
        """Not the mean, which has no closed form, but every pixel's probability given a sample of those before it.

        The sample's random numbers are the same for every picture.
        """
        return self.distribution(parameters).mean

    def distribution(self, parameters: Tensor) -> Distribution:
        """Pixels one after the other."""
        return AutoregressiveBernoulli(self, full_precision(parameters))


class AutoregressiveBernoulli(Distribution):
    """Over events [1,H,W], of `observation`, given its `parameters` [...,C,H,W]."""

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, observation: AutoregressivePixels, parameters: Tensor) -> None:
        self.observation, self.parameters = observation, parameters
        event = torch.Size((1, *parameters.shape[-2:]))
        super().__init__(parameters.shape[:-3], event, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Not the mean: see `AutoregressivePixels.mean`."""
        uniform = torch.rand(self.event_shape, generator=torch.Generator().manual_seed(0))
        return self._in_order(self.parameters, uniform.to(self.parameters.device))[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats, [...]."""
        batch = torch.broadcast_shapes(value.shape[:-3], self.batch_shape)
        parameters, x = (
            part.expand(*batch, *part.shape[-3:]).reshape(-1, *part.shape[-3:])
            for part in (self.parameters, value)
        )
        return self.observation.log_likelihood(parameters, x).view(batch)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Ancestral."""
        parameters = self.parameters.expand(*sample_shape, *self.parameters.shape)
        uniform = torch.rand(*parameters.shape[:-3], *self.event_shape, device=parameters.device)
        _, values = self._in_order(parameters, uniform)
        return values

    @torch.no_grad()
    def _in_order(self, parameters: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        shape = (*parameters.shape[:-3], *self.event_shape)
        uniform = uniform.expand(shape).flatten(0, -4)
        probability, values = self.observation.in_order(parameters.flatten(0, -4), uniform)
        return probability.view(shape), values.view(shape)


class AutoregressiveObservation(AutoregressivePixels, IdentityObservation):
    """To the canvas's logits every pixel adds for those after it what it weighs (Gregor et al. 2014)."""

    def __init__(self, settings: Any, sizes: Sizes) -> None:
        super().__init__(settings, sizes)
        pixels = sizes.height * sizes.width
        self.weights = nn.Parameter(torch.zeros(pixels, pixels))  # the strictly lower triangle counts

    def given(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Linear in x."""
        return parameters + (x.flatten(-3) @ self.weights.tril(-1).mT).view(x.shape)

    def in_order(self, parameters: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """A pixel that has a value adds its weights to the logits of all after it."""
        logits, uniform = parameters.flatten(1).clone(), uniform.flatten(1)
        values = torch.zeros_like(logits)
        for pixel in range(logits.shape[1]):
            values[:, pixel] = (uniform[:, pixel] < logits[:, pixel].sigmoid()).to(values.dtype)
            logits[:, pixel + 1 :] += values[:, pixel, None] * self.weights[pixel + 1 :, pixel]
        return logits.sigmoid().view_as(parameters), values.view_as(parameters)


class LocalObservation(AutoregressivePixels, ConvObservation):
    """To the canvas's logit a small network adds what it makes of the canvas there and of the pixels near and before.

    One masked convolution and 1 x 1 ones, the shallow end of a PixelCNN on top of latents (PixelVAE, Gulrajani et al.
    2017): it says how a stroke goes on, the latents say which strokes there are.
    """

    def __init__(self, settings: Any, sizes: Sizes) -> None:
        super().__init__(settings, sizes)
        hidden, self.radius = settings.pixel_hidden, settings.pixel_window // 2
        rows, columns = self.radius + 1, 2 * self.radius + 1
        self.before = rows * columns - self.radius - 1  # the window's pixels before its middle, row by row
        self.canvas = nn.Conv2d(sizes.canvas_channels, hidden, 1)
        self.pixels = nn.Linear(self.before, hidden, bias=False)
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(settings.pixel_layers - 1))
        self.add = nn.Linear(hidden, 1, bias=False)
        nn.init.zeros_(self.add.weight)  # the canvas alone, at first

    def forward(self, canvas: Tensor) -> Tensor:
        """[B,Cc,H,W] -> [B,1+N,H,W]: the canvas's logits, and what it adds to the N hidden units."""
        return torch.cat([super().forward(canvas), self.canvas(canvas)], 1)

    def beside_error(self, x: Tensor, parameters: Tensor) -> Tensor:
        """x beside x less what the canvas alone gives."""
        return super().beside_error(x, parameters[:, :1])

    def given(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Of all pixels at once."""
        windows = functional.unfold(self._padded(x), (self.radius + 1, 2 * self.radius + 1))
        added = self._added(parameters[:, 1:].flatten(2).mT, windows[:, : self.before].mT)
        return parameters[:, :1] + added.mT.unflatten(2, x.shape[2:])

    def in_order(self, parameters: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """One pixel of all images after the other."""
        probability = torch.zeros_like(uniform)
        values = self._padded(probability)
        for row in range(uniform.shape[2]):
            for column in range(uniform.shape[3]):
                window = values[:, 0, row : row + self.radius + 1, column : column + 2 * self.radius + 1]
                there = parameters[:, :, row, column]
                logit = there[:, :1] + self._added(there[:, 1:], window.flatten(1)[:, : self.before])
                probability[:, :, row, column] = logit.sigmoid()
                ink = uniform[:, :, row, column] < probability[:, :, row, column]
                values[:, :, row + self.radius, column + self.radius] = ink.to(values.dtype)
        return probability, values[:, :, self.radius :, self.radius : values.shape[3] - self.radius]

    def _padded(self, x: Tensor) -> Tensor:
        """No ink beyond the border."""
        return functional.pad(x, (self.radius, self.radius, self.radius, 0))

    def _added(self, canvas: Tensor, pixels: Tensor) -> Tensor:
        """[...,N] and the pixels before [...,M] -> [...,1]."""
        units = functional.elu(canvas + self.pixels(pixels))
        for layer in self.layers:
            units = functional.elu(layer(units))
        return self.add(units)
