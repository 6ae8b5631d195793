"""log p(x) between two bounds: annealed importance sampling, forward (Neal 2001) and reverse (Grosse et al. 2015).

As Wu et al. 2017 measure decoders, but in the space of the noise, which is N(0, I) under a learned prior, too:
f_b(noise) = N(noise; 0, I) p(x | noise)^b goes from the prior (b = 0) to the posterior (b = 1), and each on the way
is left invariant by one transition of Hamiltonian Monte Carlo. Shapes: T steps, N numbers of noise a step, B images,
C = M B chains, the first chain of every image before the second of any.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from seqgen.core.errors import BadInput, NumericalError
from seqgen.data.batches import generator_at
from seqgen.evaluation.bounds import Advance, HeldOut
from seqgen.models import SequentialModel

LEAPFROGS = 10  # steps of a trajectory, as Wu et al. take
ACCEPTANCE = 0.65  # what step sizes are tuned to (Neal 2011)
_PILOT_CHAINS = 4
_FIRST_STEP, _LEARNING = 0.3, 0.1
_CPU = torch.device("cpu")

LogLikelihood = Callable[[Tensor], Tensor]  # noise [T,C,N] -> log p(x | noise) [C] in nats, differentiable


class Annealed(NamedTuple):
    """Of each chain [C]: the log weight in nats, and the mean probability with which a proposal was accepted."""

    log_weight: Tensor
    acceptance: Tensor


class Sandwich(NamedTuple):
    """Of each image, float64 [B]: E[lower] <= log p(x) <= E[upper], and the mean acceptance of both directions.

    `upper` is None for images that were not drawn from the model.
    """

    lower: Tensor
    upper: Tensor | None
    acceptance: Tensor


class Simulated(NamedTuple):
    """Images drawn from the model, and the noise [T,B,N] that drew them: an exact sample of p(noise | x)."""

    held_out: HeldOut
    noise: Tensor


class _Point(NamedTuple):
    noise: Tensor
    log_likelihood: Tensor  # float64
    gradient: Tensor  # of the log-likelihood


def sigmoid_schedule(steps: int, sharpness: float = 4.0) -> list[float]:
    """b_0 = 0 to b_steps = 1, dense at both ends: sigmoid(sharpness (2 t / steps - 1)), stretched to [0, 1]."""
    values = [1 / (1 + math.exp(-sharpness * (2 * t / steps - 1))) for t in range(steps + 1)]
    first, last = values[0], values[-1]
    return [(value - first) / (last - first) for value in values]


def forward(
    log_likelihood: LogLikelihood,
    start: Tensor,
    betas: list[float],
    sizes: Tensor,
    generator: torch.Generator,
) -> Annealed:
    """From `start` [T,C,N] ~ N(0, I) to the posterior: E[w] = p(x), so E[log w] <= log p(x).

    log w = sum_t (b_t - b_{t-1}) log p(x | noise_{t-1}), where noise_t follows noise_{t-1} by a transition at b_t.
    `sizes` [n,C] are the leapfrogs' at b_1 ... b_n.
    """
    point = _at(log_likelihood, start)
    weight, accepted = torch.zeros_like(point.log_likelihood), torch.zeros_like(point.log_likelihood)
    for t in range(1, len(betas)):
        weight += (betas[t] - betas[t - 1]) * point.log_likelihood
        point, probability = _transition(log_likelihood, point, betas[t], sizes[t - 1], generator)
        accepted += probability
    return Annealed(weight, accepted / (len(betas) - 1))


def reverse(
    log_likelihood: LogLikelihood,
    start: Tensor,
    betas: list[float],
    sizes: Tensor,
    generator: torch.Generator,
) -> Annealed:
    """From `start` [T,C,N] ~ p(noise | x) back to the prior: E[1 / w] = 1 / p(x), so E[log w] >= log p(x).

    The transitions of `forward` in the opposite order; each is its own reverse.
    """
    point = _at(log_likelihood, start)
    weight, accepted = torch.zeros_like(point.log_likelihood), torch.zeros_like(point.log_likelihood)
    for t in range(len(betas) - 1, 0, -1):
        point, probability = _transition(log_likelihood, point, betas[t], sizes[t - 1], generator)
        weight += (betas[t] - betas[t - 1]) * point.log_likelihood
        accepted += probability
    return Annealed(weight, accepted / (len(betas) - 1))


def tune(
    log_likelihood: LogLikelihood, start: Tensor, betas: list[float], images: int, generator: torch.Generator
) -> Tensor:
    """Step sizes [n,B] at b_1 ... b_n from chains of their own, which go forward from `start` [T,MB,N].

    An image's step grows while more than ACCEPTANCE of its chains' proposals are accepted and shrinks otherwise. It
    is fixed before a chain that counts begins: adapted on the way, its transitions would not leave f_b invariant.
    """
    point = _at(log_likelihood, start)
    chains = start.shape[1] // images
    size = torch.full((images,), _FIRST_STEP, device=start.device)
    sizes = []
    for beta in betas[1:]:
        point, probability = _transition(log_likelihood, point, beta, size.repeat(chains), generator)
        excess = probability.view(chains, images).mean(0).float() - ACCEPTANCE
        sizes.append(size)
        size = size * (_LEARNING * excess).exp()
    return torch.stack(sizes)


def simulate(model: SequentialModel, held_out: HeldOut, seed: int, *, part: int = 0) -> Simulated:
    """As many images as `held_out` has, drawn from the model given the contexts of those."""
    generator = generator_at(_CPU, seed, "simulated", part)
    noise = model.noise(len(held_out), generator)
    device = next(model.parameters()).device
    context = None if held_out.context is None else held_out.context.to(device).float()
    with torch.no_grad(), torch.random.fork_rng():
        # A distribution draws from torch's own generators.
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        x = model.decode(noise.to(device), context).sample()
    return Simulated(replace(held_out, x=x.to("cpu", held_out.x.dtype)), noise)


def sandwich(
    model: SequentialModel,
    held_out: HeldOut,
    steps: int,
    chains: int,
    seed: int,
    advance: Advance | None = None,
    *,
    part: int = 0,
    exact: Tensor | None = None,
) -> Sandwich:
    """Bounds of log p(x) of every image by M = `chains` chains of n = `steps` transitions, all images at once.

    lower = log (1/M) sum_m w_m; upper = -log (1/M) sum_m 1/w_m, of chains that start at `exact` [T,B,N], the noise that
    drew the images (`simulate`). The random numbers depend on the images of this call, and on which `part` of a larger
    set they are. `advance` counts the passes of `passes`. Raises BadInput for a model whose noise is not all N(0, I),
    NumericalError if a bound is not finite.
    """
    require_normal_noise(model)
    model = copy.deepcopy(model).requires_grad_(False)
    device = next(model.parameters()).device
    images = len(held_out)
    ((x, context),) = held_out.chunks(images, device)

    def log_likelihood(noise: Tensor) -> Tensor:
        if advance:
            advance(noise.shape[1])
        repeated = x.expand(noise.shape[1] // images, *x.shape).flatten(0, 1)
        return model.decode(noise, context).log_prob(repeated)

    betas = sigmoid_schedule(steps)
    pilot, up, down = (
        generator_at(_CPU, seed, f"annealing {what}", part) for what in ("pilot", "up", "down")
    )
    start = model.noise(_PILOT_CHAINS * images, pilot).to(device)
    sizes = tune(log_likelihood, start, betas, images, pilot).repeat(1, chains)

    start = model.noise(chains * images, up).to(device)
    found = [forward(log_likelihood, start, betas, sizes, up)]
    lower = found[0].log_weight.view(chains, images).logsumexp(0) - math.log(chains)
    upper = None
    if exact is not None:
        found.append(reverse(log_likelihood, exact.to(device).repeat(1, chains, 1), betas, sizes, down))
        upper = math.log(chains) - (-found[1].log_weight).view(chains, images).logsumexp(0)
        upper = _finite(upper.cpu())
    acceptance = torch.stack([one.acceptance.view(chains, images).mean(0) for one in found]).mean(0)
    return Sandwich(_finite(lower.cpu()), upper, acceptance.cpu())


def passes(steps: int, chains: int, *, simulated: bool) -> int:
    """How many times `sandwich` computes log p(x | noise) and its gradient for an image."""
    return (steps * LEAPFROGS + 1) * (_PILOT_CHAINS + (2 if simulated else 1) * chains)


def require_normal_noise(model: SequentialModel) -> None:
    """Raises BadInput for a model whose noise is not all N(0, I)."""
    if not model.step.normal_noise:
        raise BadInput(
            f"model.step={model.config.step}: annealing follows the gradient in Gaussian noise, and not all of this "
            "model's noise is Gaussian; leave it out (--ais-images 0)"
        )


def _transition(
    log_likelihood: LogLikelihood, point: _Point, beta: float, size: Tensor, generator: torch.Generator
) -> tuple[_Point, Tensor]:
    """One of Hamiltonian Monte Carlo with steps of `size` [C], and the probability of its acceptance, float64 [C]."""
    momentum = torch.randn(point.noise.shape, generator=generator).to(point.noise)
    uniform = torch.rand(len(size), generator=generator).to(point.noise.device)
    step = size.view(1, -1, 1)
    before = _energy(point, momentum, beta)
    proposal = point
    momentum = momentum + step / 2 * _force(point, beta)
    for leapfrog in range(LEAPFROGS):
        proposal = _at(log_likelihood, proposal.noise + step * momentum)
        last = leapfrog == LEAPFROGS - 1
        momentum = momentum + (step / 2 if last else step) * _force(proposal, beta)
    # Where a trajectory has left what floats can hold the probability is 0.
    probability = (before - _energy(proposal, momentum, beta)).clamp(max=0).exp().nan_to_num(0.0)
    taken = uniform < probability
    wide = taken.view(1, -1, 1)
    moved = _Point(
        torch.where(wide, proposal.noise, point.noise),
        torch.where(taken, proposal.log_likelihood, point.log_likelihood),
        torch.where(wide, proposal.gradient, point.gradient),
    )
    return moved, probability


def _at(log_likelihood: LogLikelihood, noise: Tensor) -> _Point:
    with torch.enable_grad():
        noise = noise.detach().requires_grad_()
        value = log_likelihood(noise)
        (gradient,) = torch.autograd.grad(value.sum(), noise)
    return _Point(noise.detach(), value.detach().double(), gradient)


def _force(point: _Point, beta: float) -> Tensor:
    """The gradient of log f_b, [T,C,N]."""
    return beta * point.gradient - point.noise


def _energy(point: _Point, momentum: Tensor, beta: float) -> Tensor:
    """-log f_b plus the kinetic energy, up to a constant, float64 [C]."""
    squares = point.noise.double().square() + momentum.double().square()
    return 0.5 * squares.sum((0, 2)) - beta * point.log_likelihood


def _finite(values: Tensor) -> Tensor:
    bad = (~torch.isfinite(values)).nonzero()
    if len(bad):
        raise NumericalError(f"annealed bound of image {int(bad[0])} is {values[bad[0]].item()}; train again")
    return values
