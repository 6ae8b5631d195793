"""A sequential generative model: a step unrolled over T, and what one does with it (eqs. 3-8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.distributions import Distribution
from torch.utils._pytree import tree_map

from seqgen.models.contracts import Sizes, Step
from seqgen.models.unroll import unroll
from seqgen.settings import ModelConfig


class Bound(NamedTuple):
    """The two sides of eq. 8 in nats, log p(x | z) [B] and the KL of every step [T,B], at a posterior sample z [T,B,K].

    `score` is log q of what no gradient flows through, [T,B] (`Latents.score`); None where it flows through all of z.
    """

    log_likelihood: Tensor
    kl: Tensor
    z: Tensor
    score: Tensor | None

    def free_energy(self) -> Tensor:
        """F = sum_t KL_t - log p(x | z), [B]: a one-sample estimate of an upper bound of -log p(x)."""
        return self.kl.sum(0) - self.log_likelihood


class Inference(NamedTuple):
    """A posterior sample: z [T,B,K], log p(z) - log q(z | x) [T,B] in nats, q over [T,B,K], p(x | z) over [1,H,W].

    `score` is that of `Bound`; `posterior` is None where torch has no such distribution.
    """

    z: Tensor
    log_ratio: Tensor
    score: Tensor | None
    posterior: Distribution | None
    likelihood: Distribution


class Trace(NamedTuple):
    """A drawing watched step by step: f_o(c_t) as mean images [T,B,1,H,W]; windows [T,B,J,4,2] in pixels, None
    where there is none; KL [T,B] when x was given."""

    canvas: Tensor
    read: Tensor | None
    write: Tensor | None
    context_read: Tensor | None
    kl: Tensor | None


class SequentialModel(nn.Module):
    """Draws an image in T steps. The step decides which member of the family it is (`seqgen.models.build`).

    Noise is the only randomness, [T,B,N] (`noise`): what the latents draw, and what else the step wants.
    """

    def __init__(self, config: ModelConfig, sizes: Sizes, step: Step) -> None:
        super().__init__()
        self.config, self.sizes, self.step = config, sizes, step
        self.recompute = 0  # steps between the states kept for the backward pass; 0 keeps all of every step
        self._compiled: Callable[..., Any] | None = None

    def noise(self, batch: int, generator: Generator) -> Tensor:
        """The noise of a drawing of `batch` images, [T,batch,N] on the generator's device."""
        return self.step.noise(self.config.steps, batch, generator)

    def forward(self, x: Tensor, context: Tensor | None, noise: Tensor) -> Bound:
        """The bound of eq. 8 for `x` [B,1,H,W] in [0,1], given N contexts x' [B,N,H,W] for conditional models."""
        parameters, drawn = self._run(noise, x, context)
        latents = self.step.latents
        return Bound(
            self.step.observation.log_likelihood(parameters, x),
            latents.kl(drawn.z, drawn.q, drawn.p),
            drawn.z,
            latents.score(drawn.z, drawn.q),
        )

    def infer(self, x: Tensor, context: Tensor | None, noise: Tensor) -> Inference:
        """A posterior sample of z for every image, with q(z | x) and p(x | z) as distributions.

        With noise for k B images it is k samples each, sample by sample, [T,kB,N]: what depends on x alone is
        computed once.
        """
        parameters, drawn = self._run(noise, x, context)
        latents = self.step.latents
        return Inference(
            drawn.z,
            latents.log_ratio(drawn.z, drawn.q, drawn.p),
            latents.score(drawn.z, drawn.q),
            latents.distribution(drawn.q),
            self.step.observation.distribution(parameters),
        )

    def encode(self, x: Tensor, context: Tensor | None, noise: Tensor) -> Tensor:
        """A posterior sample of z as the prior's noise, [T,B,N]: what `decode` makes the same p(x | z) of.

        Under the prior that is N(0, I) whatever p(z_t | .) is, with one z_t on another as they may depend. Raises
        BadInput where z does not tell its noise.
        """
        _, drawn = self._run(noise, x, context)
        return self.step.latents.prior_noise(drawn.p, drawn.z)

    def posterior_and_prior(
        self, x: Tensor, context: Tensor | None, noise: Tensor
    ) -> tuple[Distribution | None, Distribution | None]:
        """q(z_t | z_<t, x) and p(z_t | z_<t) over [T,B,K] along the posterior sample that `noise` [T,B,N] draws."""
        _, drawn = self._run(noise, x, context)
        return self.step.latents.distribution(drawn.q), self.step.latents.distribution(drawn.p)

    def decode(self, noise: Tensor, context: Tensor | None = None) -> Distribution:
        """p(x | z, x') for z drawn from the prior by `noise` [T,B,N], as a distribution over [1,H,W]."""
        parameters, _ = self._run(noise, None, context)
        return self.step.observation.distribution(parameters)

    def sample(self, noise: Tensor, context: Tensor | None = None) -> Tensor:
        """Ancestral samples: the mean images [B,1,H,W] of drawings from the prior by `noise` [T,B,N]."""
        parameters, _ = self._run(noise, None, context)
        return self.step.observation.mean(parameters)

    @torch.no_grad()
    def trace(self, noise: Tensor, x: Tensor | None = None, context: Tensor | None = None) -> Trace:
        """Watch a drawing: from the posterior of `x` if given, else from the prior."""
        step, observed = self.step, self.step.observe(x, context)
        canvases, windows = [], []

        def advance(t: int, state: Any, noise_t: Tensor) -> tuple[Any, Any]:
            after, drawn = step(t, state, noise_t, observed)
            canvases.append(step.observation.mean(step.observation(after.canvas)))
            windows.append(step.windows(state, after, noise_t, observed))
            return after, drawn

        _, drawn = unroll(advance, step.start(noise.shape[1]), noise)
        read, write, context_read = (
            None if each[0] is None else torch.stack(each) for each in zip(*windows, strict=True)
        )
        kl = None if x is None else step.latents.kl(drawn.z, drawn.q, drawn.p)
        return Trace(torch.stack(canvases), read, write, context_read, kl)

    def compile_step(self, compiled: bool = True) -> None:
        """Have one step compiled by torch.compile, for fixed shapes, on CUDA with graphs; or, if False, not (again).

        The first use takes a minute. A copy of the model is not compiled.
        """
        mode = "reduce-overhead" if next(self.parameters()).device.type == "cuda" else None
        self._compiled = torch.compile(self.step.forward, dynamic=False, mode=mode) if compiled else None

    def __getstate__(self) -> dict[str, Any]:
        # What is compiled belongs to this model's weights: no copy may have it.
        return {**self.__dict__, "_compiled": None}

    def _run(self, noise: Tensor, x: Tensor | None, context: Tensor | None) -> tuple[Tensor, Any]:
        """The observation's parameters at c_T, and what was drawn; k noises an image if there are k times as many."""
        observed = self.step.observe(x, context)
        given = x if x is not None else context
        if given is not None:
            k, rest = divmod(noise.shape[1], len(given)) if len(given) else (1, noise.shape[1])
            if rest:
                raise ValueError(
                    f"noise for {noise.shape[1]} images, which is no multiple of the {len(given)} given"
                )
            if k > 1:
                observed = tree_map(lambda part: part if part is None else _repeated(part, k), observed)
        step: Callable[..., Any] = self._compiled or self.step
        state, drawn = unroll(
            lambda t, state, noise_t: step(t, state, noise_t, observed),
            self.step.start(noise.shape[1]),
            noise,
            recompute=self.recompute,
        )
        return self.step.observation(state.canvas), drawn


def _repeated(images: Tensor, k: int) -> Tensor:
    """Each image k times, sample by sample: [k B, ...]."""
    return images.expand(k, *images.shape).flatten(0, 1)
