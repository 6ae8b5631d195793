"""Held-out bounds in nats per image, with standard errors, and what context is worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from data_prep.config import DataConfig
from data_prep.errors import BadInput, NumericalError
from seqgen.config import EvaluateConfig
from seqgen.data.batches import fixed_set
from seqgen.data.images import ImageSet
from seqgen.models import SequentialGenerator
from seqgen.objectives import importance_weighted

CHUNK = 250  # images at once; a constant because the noise of an image depends on it

Advance = Callable[[int], None]


@dataclass(frozen=True)
class HeldOut:
    """A split as it is measured: binarised once, each image with its context, in the set's order."""

    x: Tensor  # uint8 [N,1,H,W] in {0, 1}
    context: Tensor | None  # uint8 [N,1,H,W] in {0, 1}, another image of the same concept
    concepts: Tensor  # int64 [N]

    def __len__(self) -> int:
        return len(self.x)


class Bounds(NamedTuple):
    """What one pass over a split gives, in nats; float64 on the CPU."""

    free_energy: Tensor  # [N]
    log_likelihood: Tensor  # [N]
    kl: Tensor  # [T], mean over images


class Estimate(NamedTuple):
    """A mean over images and the standard error of that mean."""

    mean: float
    se: float


@dataclass(frozen=True)
class Measurement:
    """The evaluation of one model: `metrics` as the contract of metrics.json names them."""

    metrics: dict[str, float]
    free_energy: Tensor  # [N]
    kl_per_step: Tensor  # [T]


def estimate(values: Tensor) -> Estimate:
    """Mean and standard error (sample standard deviation over sqrt n) of `values` [n], n >= 2."""
    if len(values) < 2:
        raise BadInput(f"a standard error needs at least 2 images, not {len(values)}; raise evaluate.images")
    values = values.double()
    return Estimate(values.mean().item(), values.std(correction=1).item() / math.sqrt(len(values)))


def by_difference(bounds: Tensor, tighter: Tensor, chosen: Tensor) -> Estimate:
    """The mean over all N images of a bound that is known for n of them only, `tighter` [n] at `chosen` [n].

    The difference estimator of survey sampling: the mean of `bounds` [N] less the mean gain on the chosen
    images, so that easy or hard chosen images do not shift it. Its variance is
    var(tighter) / N + (1/n - 1/N) var(gain).
    """
    if len(tighter) < 2:
        raise BadInput("a standard error needs at least 2 images, not 1; raise evaluate.importance_images")
    gain = bounds.double()[chosen] - tighter.double()
    total, known = len(bounds), len(tighter)
    variance = tighter.double().var() / total + (1 / known - 1 / total) * gain.var()
    return Estimate((bounds.double().mean() - gain.mean()).item(), math.sqrt(variance.item()))


def spread(total: int, count: int) -> Tensor:
    """`min(count, total)` different indices below `total`, evenly spread and always the same. int64."""
    count = min(count, total)
    return torch.arange(count) * total // max(count, 1)


def hold_out(images: ImageSet, data: DataConfig, conditional: bool, seed: int) -> HeldOut:
    """Binarise `images` once and give each its context, all from `seed`."""
    x, partner = fixed_set(images, data, conditional, seed)
    x = x.unsqueeze(1).cpu()
    return HeldOut(x, None if partner is None else x[partner.cpu()], images.concepts.cpu())


def foreign_context(held_out: HeldOut, seed: int) -> Tensor | None:
    """The same contexts dealt out anew, so that none has its image's concept: uint8 [N,1,H,W].

    Concepts are put in a random order and the contexts moved on by the largest concept's size. None where
    that cannot be (one concept has more than half of the images).
    """
    if held_out.context is None:
        return None
    _, concept, counts = held_out.concepts.unique(return_inverse=True, return_counts=True)
    if 2 * int(counts.max()) > len(held_out):
        return None
    generator = torch.Generator().manual_seed(seed)
    rank = torch.randperm(len(counts), generator=generator)[concept]
    order = torch.argsort(rank, stable=True)
    source = torch.empty_like(order)
    source[order] = order.roll(-int(counts.max()))
    return held_out.context[source]


@torch.no_grad()
def free_energies(
    model: SequentialGenerator, held_out: HeldOut, seed: int, advance: Advance | None = None
) -> Bounds:
    """The free energy of every image from one posterior sample each, in chunks of bounded memory.

    The noise depends on `seed` and the position alone: two calls that differ in the context only are paired.
    Raises NumericalError if a bound is not finite.
    """
    device = _device(model)
    generator = torch.Generator().manual_seed(seed)
    free_energy, log_likelihood, kl = [], [], []
    for x, context in _chunks(held_out, device, CHUNK):
        noise = torch.randn(model.noise_shape(len(x)), generator=generator).to(device)
        bound = model(x, context, noise)
        log_likelihood.append(bound.log_likelihood.double().cpu())
        kl.append(bound.kl.double().cpu())
        free_energy.append(kl[-1].sum(0) - log_likelihood[-1])
        if advance:
            advance(len(x))
    result = Bounds(torch.cat(free_energy), torch.cat(log_likelihood), torch.cat(kl, dim=1).mean(1))
    return Bounds(_finite(result.free_energy, "free energy"), *result[1:])


@torch.no_grad()
def importance_bounds(
    model: SequentialGenerator, held_out: HeldOut, samples: int, seed: int, advance: Advance | None = None
) -> Tensor:
    """-L_k of every image: bounds -log p(x) from above, the tighter the larger k = `samples`; float64 [N]."""
    device = _device(model)
    generator = torch.Generator().manual_seed(seed)
    values = []
    step = max(1, CHUNK // samples)
    for x, context in _chunks(held_out, device, step):
        bound = importance_weighted(model, x, context, samples=samples, chunk=CHUNK, generator=generator)
        values.append(-bound.double().cpu())
        if advance:
            advance(len(x) * samples)
    return _finite(torch.cat(values), f"importance-weighted bound (k={samples})")


def measure(
    model: SequentialGenerator, held_out: HeldOut, config: EvaluateConfig, advance: Advance | None = None
) -> Measurement:
    """All bounds of `model` on `held_out`, in nats per image; each bounds -log p(x) from above.

    For a conditional model `context_value` is what knowing x' is worth: the bound with a context of another
    concept less the bound, as a paired difference.
    """
    bounds = free_energies(model, held_out, config.seed, advance)
    bound = estimate(bounds.free_energy)
    metrics = {
        "bound": bound.mean,
        "bound_se": bound.se,
        "log_likelihood": bounds.log_likelihood.mean().item(),
        "kl": bounds.kl.sum().item(),
    }
    foreign = foreign_context(held_out, config.seed)
    if foreign is not None:
        shuffled = free_energies(model, replace(held_out, context=foreign), config.seed, advance).free_energy
        value = estimate(shuffled - bounds.free_energy)
        metrics |= {
            "bound_shuffled_context": shuffled.mean().item(),
            "bound_shuffled_context_se": estimate(shuffled).se,
            "context_value": value.mean,
            "context_value_se": value.se,
        }
    chosen = spread(len(held_out), config.importance_images)
    k = config.importance_samples
    weighted = importance_bounds(model, _take(held_out, chosen), k, config.seed, advance)
    tighter = by_difference(bounds.free_energy, weighted, chosen)
    metrics |= {f"iwae_{k}": tighter.mean, f"iwae_{k}_se": tighter.se, f"iwae_{k}_images": len(chosen)}
    metrics["images"] = len(held_out)
    return Measurement(metrics, bounds.free_energy, bounds.kl)


def passes(held_out: HeldOut, config: EvaluateConfig) -> int:
    """How many image passes `measure` makes, which is what its `advance` counts up to."""
    sweeps = 1 if held_out.context is None or foreign_context(held_out, config.seed) is None else 2
    return sweeps * len(held_out) + config.importance_samples * min(len(held_out), config.importance_images)


def _take(held_out: HeldOut, index: Tensor) -> HeldOut:
    context = None if held_out.context is None else held_out.context[index]
    return HeldOut(held_out.x[index], context, held_out.concepts[index])


def _chunks(held_out: HeldOut, device: torch.device, size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    for start in range(0, len(held_out), size):
        part = slice(start, start + size)
        context = None if held_out.context is None else held_out.context[part].to(device).float()
        yield held_out.x[part].to(device).float(), context


def _device(model: SequentialGenerator) -> torch.device:
    return next(model.parameters()).device


def _finite(values: Tensor, what: str) -> Tensor:
    bad = (~torch.isfinite(values)).nonzero()
    if len(bad):
        raise NumericalError(
            f"{what} of held-out image {int(bad[0])} is {values[bad[0]].item()}; train again"
        )
    return values
