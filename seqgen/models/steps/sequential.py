"""The paper's step: read, infer or draw z_t, advance h, write (eqs. 3-6, 11-12). DRAW is the same with other kinds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from seqgen.models.contracts import (
    Canvas,
    Context,
    Drawn,
    Make,
    Memory,
    Observation,
    Posterior,
    Prior,
    Reader,
    Sizes,
    Step,
    Transition,
    Windows,
    Writer,
)


class State(NamedTuple):
    """What one step hands to the next: h [B,D] and the transition's memory, the canvas, the posterior's memory."""

    h: Tensor
    memory: Memory
    canvas: Tensor
    inference: Memory


class Observed(NamedTuple):
    """x [B,1,H,W] and what is read of it, prepared (None where that changes with the canvas); of the contexts x' and
    what is read of it, prepared, or, where these change with h, what they are made of.

    `x` is None when drawing from the prior; an unconditional model has no contexts.
    """

    x: Tensor | None
    read: Tensor | None
    shown: tuple[Tensor, Tensor] | None
    gathered: tuple[Tensor, ...] | None


class SequentialStep(Step):
    """A member of the family: which kind stands in each slot. With `error_image` x - x_hat_{t-1} is read beside x."""

    def __init__(self, config: Any, sizes: Sizes, make: Make) -> None:
        super().__init__(config, sizes, make)
        self.error_image, self.infer_from_context = config.error_image, config.infer_from_context
        attention, latents = make("attention"), make("latent")
        reader: Reader = attention.reader(2 if config.error_image else 1)
        context_reader: Reader | None = attention.context_reader() if config.conditional else None
        context: Context | None = make("context") if context_reader else None
        shown = context_reader.features if context_reader else 0
        glimpse = reader.features + (shown if config.infer_from_context else 0)
        posterior: Posterior = make("inference", glimpse, latents.parameters_of_q)
        writer: Writer = attention.writer()
        transition: Transition = make("transition", sizes.latents + shown)
        canvas: Canvas = make("canvas")
        observation: Observation = make("observation")
        prior: Prior = make("prior", shown, latents.parameters_of_q)
        self.reader, self.writer = reader, writer
        self.context_reader, self.context = context_reader, context
        self.latents, self.prior, self.posterior = latents, prior, posterior
        self.transition, self.canvas, self.observation = transition, canvas, observation
        # The paper leaves c_0 open; here it is learned, a constant a channel.
        self.canvas0 = nn.Parameter(torch.full((sizes.canvas_channels,), observation.initial_canvas))

    def noise(self, steps: int, batch: int, generator: Generator) -> Tensor:
        """The latents' noise and, beside it, the uniform numbers of a random reader."""
        noise = super().noise(steps, batch, generator)
        if not self.reader.random:
            return noise
        shape = steps, batch, self.reader.random
        return torch.cat([noise, torch.rand(shape, generator=generator, device=generator.device)], 2)

    @property
    def normal_noise(self) -> bool:
        """Not where the reader has uniform numbers."""
        return super().normal_noise and not self.reader.random

    def start(self, batch: int) -> State:
        """h_0, c_0 and the memories."""
        h, memory = self.transition.start(batch)
        canvas = self.canvas0.view(1, -1, 1, 1).expand(batch, -1, self.sizes.height, self.sizes.width)
        return State(h, memory, canvas, self.posterior.start(h))

    def observe(self, x: Tensor | None, context: Tensor | None) -> Observed:
        """Raises ValueError where a context is missing or not wanted."""
        if (context is None) != (self.context_reader is None):
            raise ValueError("a conditional model needs context images, an unconditional one takes none")
        read = None if x is None or self.error_image else self.reader.prepare(x)
        gathered = shown = None
        if context is not None and self.context is not None:
            if context.shape[1] == 0:  # none is shown as a blank one, which no drawing is
                context = context.new_zeros(len(context), 1, *context.shape[2:])
            gathered = self.context.gather(context)
            if self.context.fixed:
                shown, gathered = self._show(gathered, self.transition.start(len(context))[0]), None
        return Observed(x, read, shown, gathered)

    def forward(self, t: int, state: State, noise: Tensor, observed: Observed) -> tuple[State, Drawn]:
        """The equations of one step; they are the same at every t."""
        h, inference = state.h, state.inference
        noise, *uniform = self._parts(noise)
        context, v = self._read_context(h, observed)  # (4)
        p = self.prior(h, v)  # (3)
        q: tuple[Tensor, ...] = ()
        if observed.x is None:
            z = self.latents.draw_from_prior(p, noise)
        else:
            r = self.reader(self._read(state, observed), h, *uniform)  # (11)
            if self.infer_from_context and v is not None:
                r = torch.cat([r, v], 1)
            parameters, inference = self.posterior(r, h, inference)
            if p:  # what q says is what it differs by from p
                parameters = parameters + torch.cat(p, 1)
            z, q = self.latents.draw(parameters, noise)  # (12)
        h, memory = self.transition([z] if v is None else [z, v], h, state.memory)  # (5)
        canvas = self.canvas(state.canvas, self.writer(h, context))  # (6)
        return State(h, memory, canvas, inference), Drawn(z, q, p)

    def _parts(self, noise: Tensor) -> Sequence[Tensor]:
        """The latents' noise [B,K], and a random reader's, which may be missing where x is not read."""
        return (
            (noise[:, : self.latents.size], noise[:, self.latents.size :]) if self.reader.random else [noise]
        )

    def _read(self, state: State, observed: Observed) -> Tensor | None:
        """What is read: x, or x beside its error image (DRAW eqs. 3-4)."""
        if not self.error_image or observed.x is None:
            return observed.read
        return self.reader.prepare(self.observation.beside_error(observed.x, self.observation(state.canvas)))

    def _read_context(self, h: Tensor, observed: Observed) -> tuple[Tensor | None, Tensor | None]:
        """x' [B,1,H,W], the image of the contexts at this step, and v_t [B,F], what is read of it."""
        shown = self._shown(h, observed)
        if self.context_reader is None or shown is None:
            return None, None
        image, prepared = shown
        return image, self.context_reader(prepared, h)

    def _shown(self, h: Tensor, observed: Observed) -> tuple[Tensor, Tensor] | None:
        """x' and what is read of it, prepared."""
        return observed.shown if observed.gathered is None else self._show(observed.gathered, h)

    def _show(self, gathered: tuple[Tensor, ...], h: Tensor) -> tuple[Tensor, Tensor]:
        assert self.context is not None
        assert self.context_reader is not None
        image = self.context(gathered, h)
        return image, self.context_reader.prepare(image)

    def windows(self, before: State, after: State, noise: Tensor, observed: Observed) -> Windows:
        """The windows that the state before read through, and those that the state after wrote through."""
        h, (_, *uniform) = before.h, self._parts(noise)
        read = self._read(before, observed)
        shown = self._shown(h, observed)
        return Windows(
            None if read is None else self.reader.corners(read, h, *uniform),
            self.writer.corners(after.h, self.sizes.height, self.sizes.width),
            None
            if self.context_reader is None or shown is None
            else self.context_reader.corners(shown[1], h),
        )
