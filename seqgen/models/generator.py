"""The sequential generative model: one loop over T steps, everything else a slot (eqs. 3-7, 11-12)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal
from torch.utils.checkpoint import checkpoint

from seqgen.models.gaussian import draw, gaussian_kl
from seqgen.models.linear import OneRun
from seqgen.models.observation import bernoulli_log_prob
from seqgen.models.precision import full_precision
from seqgen.models.slots import Observation, Posterior, Reader, Writer
from seqgen.models.transition import LstmCell
from seqgen.settings import ModelConfig


class State(NamedTuple):
    """What one step hands to the next: h, cell [B,D]; canvas [B,C,H,W]; the encoder's own (h, cell) [B,E]."""

    h: Tensor
    cell: Tensor
    canvas: Tensor
    encoder: tuple[Tensor, Tensor]


class Step(NamedTuple):
    """What one step leaves: z and the mean and log sigma of what it was drawn from ([B,K] each)."""

    z: Tensor
    mean: Tensor
    log_std: Tensor


class Seen(NamedTuple):
    """The images of a run, with what is read from them alike at every step done once.

    `x` [B,1,H,W] is None when drawing from the prior. `prepared` is what is read from, None where it changes with the
    canvas; `share` stands for a glimpse that is fixed; `context` is prepared, None if unconditional.
    """

    x: Tensor | None
    prepared: Tensor | None
    share: Tensor | None
    context: Tensor | None

    def repeated(self, k: int) -> Seen:
        """Each image k times, sample by sample: [k B, ...]."""
        return Seen(*(part if part is None or k == 1 else _repeat(part, k) for part in self))


class Bound(NamedTuple):
    """The two sides of eq. 8 in nats: log p(x | z) [B], and the KL of every step [T,B]."""

    log_likelihood: Tensor
    kl: Tensor

    def free_energy(self) -> Tensor:
        """F = sum_t KL_t - log p(x | z), [B]: a one-sample estimate of an upper bound of -log p(x)."""
        return self.kl.sum(0) - self.log_likelihood


class Inference(NamedTuple):
    """A posterior sample with its distributions: q over [T,B,K], z [T,B,K], p(x | z) over events [1,H,W]."""

    posterior: Normal
    z: Tensor
    likelihood: Independent


class Trace(NamedTuple):
    """A drawing watched step by step: f_o(c_t) as probabilities [T,B,1,H,W]; windows [T,B,4,2] in pixels, None
    where there is none; KL [T,B] when x was given."""

    canvas: Tensor
    read: Tensor | None
    write: Tensor | None
    context_read: Tensor | None
    kl: Tensor | None


class SequentialGenerator(nn.Module):
    """Draws an image in T steps. The slots decide which member of the family it is (`seqgen.models.build`).

    Noise is the only randomness: standard normal [T,B,K], which under the posterior becomes
    z_t = mu_t + sigma_t noise_t and under the prior is z_t itself (eq. 3).
    """

    def __init__(
        self,
        config: ModelConfig,
        height: int,
        width: int,
        mean: float,
        *,
        reader: Reader,
        writer: Writer,
        context_reader: Reader | None,
        posterior: Posterior,
        transition: LstmCell,
        canvas: nn.Module,
        observation: Observation,
    ) -> None:
        super().__init__()
        self.config, self.height, self.width, self.mean = config, height, width, mean
        self.reader, self.writer, self.context_reader = reader, writer, context_reader
        self.posterior, self.transition = posterior, transition
        self.canvas, self.observation = canvas, observation
        self.recompute = 0  # steps between the states kept for the backward pass; 0 keeps all of every step
        self._compiled: Callable[..., tuple[State, Step]] | None = None
        # The paper leaves the initial state open; here it is learned, a constant a channel for the canvas.
        self.h0 = nn.Parameter(torch.zeros(config.hidden))
        self.cell0 = nn.Parameter(torch.zeros(config.hidden))
        self.canvas0 = nn.Parameter(torch.full((config.canvas_channels,), observation.initial_canvas))

    def noise_shape(self, batch: int) -> tuple[int, int, int]:
        """(T, batch, K)."""
        return self.config.steps, batch, self.config.latents

    def forward(self, x: Tensor, context: Tensor | None, noise: Tensor) -> Bound:
        """The bound of eq. 8 for `x` [B,1,H,W] in [0,1], given `context` x' [B,1,H,W] for conditional models."""
        canvas, drawn = self._run(noise, x, context)
        return Bound(bernoulli_log_prob(self.observation(canvas), x), gaussian_kl(drawn.mean, drawn.log_std))

    def infer(self, x: Tensor, context: Tensor | None, noise: Tensor) -> Inference:
        """A posterior sample of z for every image, with q(z | x) and p(x | z) as distributions.

        With noise for k B images it is k samples each, sample by sample, [T,kB,K]: what depends on x alone is
        computed once.
        """
        canvas, drawn = self._run(noise, x, context)
        posterior = Normal(drawn.mean, drawn.log_std.exp(), validate_args=False)
        return Inference(posterior, drawn.z, self._likelihood(canvas))

    def decode(self, z: Tensor, context: Tensor | None = None) -> Independent:
        """p(x | z, x') for `z` [T,B,K], as a distribution over [1,H,W]."""
        canvas, _ = self._run(z, None, context)
        return self._likelihood(canvas)

    def sample(self, noise: Tensor, context: Tensor | None = None) -> Tensor:
        """Ancestral samples: the Bernoulli means [B,1,H,W] of images drawn from z = `noise` [T,B,K]."""
        return self.decode(noise, context).mean

    @torch.no_grad()
    def trace(self, noise: Tensor, x: Tensor | None = None, context: Tensor | None = None) -> Trace:
        """Watch a drawing: from the posterior of `x` if given, else from the prior."""
        seen, state = self._look(x, context), self.initial_state(noise.shape[1])
        canvases, steps = [], []
        read, write, context_read = [], [], []
        for noise_t in noise:
            if x is not None:
                read.append(self.reader.corners(state.h, self.height, self.width))
            if self.context_reader is not None:
                context_read.append(self.context_reader.corners(state.h, self.height, self.width))
            state, step = self.step(state, noise_t, seen)
            write.append(self.writer.corners(state.h, self.height, self.width))
            canvases.append(self.observation(state.canvas).sigmoid())
            steps.append(step)
        drawn = _stack_steps(steps)
        return Trace(
            torch.stack(canvases),
            _stack(read),
            _stack(write),
            _stack(context_read),
            None if x is None else gaussian_kl(drawn.mean, drawn.log_std),
        )

    def initial_state(self, batch: int) -> State:
        """h_0, cell_0, c_0 for a batch; the encoder starts at zero."""
        canvas = self.canvas0.view(1, -1, 1, 1).expand(batch, -1, self.height, self.width)
        zeros = self.h0.new_zeros(batch, self.posterior.state_size)
        return State(self.h0.expand(batch, -1), self.cell0.expand(batch, -1), canvas, (zeros, zeros))

    def step(self, state: State, noise: Tensor, seen: Seen) -> tuple[State, Step]:
        """One step t: read, infer or take z_t, advance h, write (eqs. 3-6, 11-12). `noise` is [B,K]."""
        encoder = state.encoder
        if seen.x is None:
            step = Step(noise, torch.zeros_like(noise), torch.zeros_like(noise))
        else:
            glimpse = None if seen.share is not None else self._glimpse(state, seen)
            parameters, encoder = self.posterior(glimpse, state.h, encoder, seen.share)
            step = Step(*draw(parameters, noise))
        inputs: tuple[Tensor, ...] = (step.z,)
        if self.context_reader is not None:
            inputs = (step.z, self.context_reader(seen.context, state.h))
        h, cell = self.transition(inputs, state.h, state.cell)
        return State(h, cell, self.canvas(state.canvas, self.writer(h)), encoder), step

    def compile_step(self, compiled: bool = True) -> None:
        """Have one step compiled by torch.compile, for fixed shapes, on CUDA with graphs; or, if False, not (again).

        The first use takes a minute. A copy of the model is not compiled.
        """
        mode = "reduce-overhead" if self.h0.device.type == "cuda" else None
        self._compiled = torch.compile(self.step, dynamic=False, mode=mode) if compiled else None

    def __getstate__(self) -> dict[str, Any]:
        # What is compiled belongs to this model's weights: no copy may have it.
        return {**self.__dict__, "_compiled": None}

    def _run(self, noise: Tensor, x: Tensor | None, context: Tensor | None) -> tuple[Tensor, Step]:
        """c_T, and the steps stacked to [T,B,K]; k noises an image if there are k times as many noises."""
        seen, state = self._look(x, context), self.initial_state(noise.shape[1])
        given = x if x is not None else context
        if given is not None:
            k, rest = divmod(noise.shape[1], len(given)) if len(given) else (1, noise.shape[1])
            if rest:
                raise ValueError(
                    f"noise for {noise.shape[1]} images, which is no multiple of the {len(given)} given"
                )
            seen = seen.repeated(k)
        # What is compiled has autograd's own gradients.
        compiled = self._compiled is not None or torch.compiler.is_compiling()
        run = None if compiled else OneRun(self)

        def segment(state: State, noise: Tensor) -> tuple[State, Step]:
            with run.inside() if run else contextlib.nullcontext():
                return self._steps(state, noise, seen)

        if not torch.is_grad_enabled():
            state, step = segment(state, noise)
            return state.canvas, step
        parts = []
        for part in noise.split(self.recompute or len(noise)):
            if self.recompute:
                state, step = checkpoint(
                    segment,
                    state,
                    part,
                    use_reentrant=False,
                    preserve_rng_state=False,
                    determinism_check="none",
                )
            else:
                state, step = segment(state, part)
            parts.append(step)
        return state.canvas, Step(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def _steps(self, state: State, noise: Tensor, seen: Seen) -> tuple[State, Step]:
        """The loop over t: the last state, and the steps stacked to [T,B,K]."""
        advance, steps = self._compiled or self.step, []
        for noise_t in noise:
            state, step = advance(state, noise_t, seen)
            steps.append(step)
        return state, _stack_steps(steps)

    def _glimpse(self, state: State, seen: Seen) -> Tensor:
        """r_t [B,F] (eq. 11); with an error image, from x beside x - x_hat_{t-1} (DRAW eqs. 3-4)."""
        if not self.config.error_image:
            return self.reader(seen.prepared, state.h)
        assert seen.x is not None
        return self.reader.read_error(seen.x, self.observation(state.canvas), state.h)

    def _look(self, x: Tensor | None, context: Tensor | None) -> Seen:
        if (context is None) == self.config.conditional:
            raise ValueError("a conditional model needs context images, an unconditional one takes none")
        prepared = None if x is None or self.config.error_image else self.reader.prepare(x)
        share = None
        if prepared is not None and self.reader.fixed:
            share = self.posterior.share(prepared)
        if context is not None and self.context_reader is not None:
            context = self.context_reader.prepare(context)
        return Seen(x, prepared, share, context)

    def _likelihood(self, canvas: Tensor) -> Independent:
        return Independent(Bernoulli(logits=full_precision(self.observation(canvas)), validate_args=False), 3)


def _repeat(images: Tensor, k: int) -> Tensor:
    return images.expand(k, *images.shape).flatten(0, 1)


def _stack_steps(steps: list[Step]) -> Step:
    return Step(*(torch.stack(parts) for parts in zip(*steps, strict=True)))


def _stack(windows: list[Tensor | None]) -> Tensor | None:
    present = [window for window in windows if window is not None]
    return torch.stack(present) if present else None
