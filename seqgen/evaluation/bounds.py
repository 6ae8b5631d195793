"""Held-out bounds in nats per image, with standard errors, and what a foreign context costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from seqgen.core.errors import NumericalError
from seqgen.data.batches import fixed_set, generator_at
from seqgen.data.images import ImageSet
from seqgen.data.partners import with_partners
from seqgen.data.settings import DataConfig, Pairs
from seqgen.evaluation.errors import clustered, difference_values
from seqgen.models import Bound, SequentialModel
from seqgen.objectives import Importance, importance_work
from seqgen.settings import EvaluateConfig

CHUNK = 250  # images at once; a constant because the noise of an image depends on it
_CUDA_PAIRS = 8192  # (image, sample) pairs at once on a GPU; an image's noise does not depend on it
_CPU = torch.device("cpu")

Advance = Callable[[int], None]


@dataclass(frozen=True)
class HeldOut:
    """A split as it is measured: binarised or dequantised once, each image with its context, in the set's order."""

    x: Tensor  # [N,1,H,W]: uint8 in {0, 1}, or float32 in [0, 1) where grey
    context: Tensor | None  # [N,n,H,W] likewise, n images of the same concept, or of others of its alphabet
    concepts: Tensor  # int64 [N]
    groups: Tensor | None = None  # int64 [N], images of one group are not independent; None: all are
    alphabets: Tensor | None = None  # int64 [N], a coarser grouping: characters of an alphabet are alike
    pairs: Pairs = "character"  # what of an image its contexts share

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: Tensor) -> HeldOut:
        """The images at `index` (int64 [M]), in that order, with what they have."""
        context, groups, alphabets = (
            None if part is None else part[index] for part in (self.context, self.groups, self.alphabets)
        )
        return HeldOut(self.x[index], context, self.concepts[index], groups, alphabets, self.pairs)

    def with_contexts(self, count: int) -> HeldOut:
        """The same images with the first `count` of their contexts."""
        return self if self.context is None else replace(self, context=self.context[:, :count])

    def chunks(self, size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor | None]]:
        """x [B,1,H,W] and contexts [B,n,H,W] of `size` images after another, as a model takes them."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            context = None if self.context is None else self.context[part].to(device).float()
            yield self.x[part].to(device).float(), context


class Bounds(NamedTuple):
    """What one pass over a split gives, in nats; float64 on the CPU."""

    free_energy: Tensor  # [N]
    log_likelihood: Tensor  # [N]
    kl: Tensor  # [T], mean over images


@dataclass(frozen=True)
class Measurement:
    """The evaluation of one model: `metrics` as the contract of metrics.json names them."""

    metrics: dict[str, float]
    free_energy: Tensor  # [N]
    kl_per_step: Tensor  # [T]


def subset(total: int, count: int, seed: int, purpose: str) -> Tensor:
    """A simple random sample of `min(count, total)` indices below `total`, in order: int64, from `seed`."""
    return random_order(total, seed, purpose)[:count].sort().values


def random_order(total: int, seed: int, purpose: str) -> Tensor:
    """The indices below `total` in a random order, int64 [total], of which any first few are a simple random sample."""
    return torch.randperm(total, generator=generator_at(_CPU, seed, purpose))


def first_of_each(concepts: Tensor) -> Tensor:
    """The index of the first image of every concept, in order: int64."""
    seen: dict[int, int] = {}
    for index, concept in enumerate(concepts.tolist()):
        seen.setdefault(concept, index)
    return torch.tensor(list(seen.values()))


def groups_of(images: ImageSet, data: DataConfig) -> Tensor | None:
    """Which images are no independent evidence, int64 [N] on the CPU: those of one held-out character.

    None where every image counts for itself (digits).
    """
    return images.concepts.cpu() if data.has_characters else None


def hold_out(
    images: ImageSet,
    data: DataConfig,
    conditional: bool,
    seed: int,
    *,
    pairs: Pairs = "character",
    contexts: int = 1,
) -> HeldOut:
    """`fixed_set` of `images` with what they have; the first contexts are the same for any number.

    With `pairs` alphabet the images whose alphabet has no other character here are left out.
    """
    if conditional and pairs == "alphabet":
        images = images.take(with_partners(images, pairs).nonzero().squeeze(1))
    x, partners = fixed_set(images, data, conditional, seed, pairs=pairs, contexts=contexts)
    x = x.cpu()
    context = None if partners is None else x[partners.cpu()]
    known = data.has_characters and bool((images.alphabets >= 0).all())
    alphabets = images.alphabets.cpu() if known else None
    concepts = images.concepts.cpu()
    return HeldOut(x.unsqueeze(1), context, concepts, groups_of(images, data), alphabets, pairs)


def foreign_context(held_out: HeldOut, seed: int) -> Tensor | None:
    """The same contexts dealt out anew, so that none has its image's concept (or alphabet): [N,n,H,W].

    What contexts are drawn within, concepts or alphabets, is put in a random order and the contexts moved on by the
    largest one's size. None where that cannot be (one has more than half of the images).
    """
    within = held_out.concepts if held_out.pairs == "character" else held_out.alphabets
    if held_out.context is None or within is None:
        return None
    _, concept, counts = within.unique(return_inverse=True, return_counts=True)
    if 2 * int(counts.max()) > len(held_out):
        return None
    generator = generator_at(_CPU, seed, "foreign context")
    rank = torch.randperm(len(counts), generator=generator)[concept]
    order = torch.argsort(rank, stable=True)
    source = torch.empty_like(order)
    source[order] = order.roll(-int(counts.max()))
    return held_out.context[source]


@torch.no_grad()
def free_energies(
    model: SequentialModel,
    held_out: HeldOut,
    seed: int,
    advance: Advance | None = None,
    *,
    purpose: str = "free energy",
) -> Bounds:
    """The free energy of every image from one posterior sample each, in chunks of bounded memory.

    The noise depends on `seed`, `purpose` and the position alone, so that two models are paired image by image.
    Raises NumericalError if a bound is not finite.
    """
    free_energy, log_likelihood, kl = [], [], []
    for bound in _bounds(model, held_out, seed, purpose):
        log_likelihood.append(bound.log_likelihood.double().cpu())
        kl.append(bound.kl.double().cpu())
        free_energy.append(kl[-1].sum(0) - log_likelihood[-1])
        if advance:
            advance(len(free_energy[-1]))
    result = Bounds(torch.cat(free_energy), torch.cat(log_likelihood), torch.cat(kl, dim=1).mean(1))
    return Bounds(_finite(result.free_energy, "free energy"), *result[1:])


def drawn_with_replacement(
    model: SequentialModel, held_out: HeldOut, draws: int, seed: int, advance: Advance | None = None
) -> Tensor:
    """F of `draws` images drawn with replacement, one posterior sample each: the paper's own protocol; float64 [draws].

    Its error bar is the standard deviation of the mean: that of these values over sqrt(draws). An image is binarised
    as it is in `held_out`, however often it is drawn.
    """
    generator = generator_at(_CPU, seed, "drawn with replacement")
    index = torch.randint(len(held_out), (draws,), generator=generator)
    drawn = held_out.take(index)
    return free_energies(model, drawn, seed, advance, purpose="drawn with replacement bound").free_energy


class Group(Protocol):
    """Processes that share the work: this one's rank among `size`, and sums over all."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def sum(self, values: Tensor) -> Tensor:
        """Summed over all ranks, on every rank."""
        ...


@torch.no_grad()
def mean_free_energy(
    model: SequentialModel,
    held_out: HeldOut,
    seed: int,
    group: Group,
    stopped: Callable[[], bool] = lambda: False,
) -> float:
    """The mean of `free_energies`, of which each rank of `group` computes every so manieth chunk; finite or not.

    If any rank is `stopped`, which each asks after every chunk, it is NaN.
    """
    total = torch.zeros(1, dtype=torch.float64, device=_device(model))
    for bound in _bounds(model, held_out, seed, "free energy", group.rank, group.size):
        total += (bound.kl.double().sum(0) - bound.log_likelihood.double()).sum()
        if stopped():
            total += torch.nan
            break
    return float(group.sum(total)) / len(held_out)


def _bounds(
    model: SequentialModel, held_out: HeldOut, seed: int, purpose: str, first: int = 0, step: int = 1
) -> Iterator[Bound]:
    """The bounds of every `step`th chunk from `first` on; a chunk's noise depends on nothing but where it begins."""
    device = _device(model)
    for number, (x, context) in enumerate(held_out.chunks(CHUNK, device)):
        if number % step == first:
            noise = model.noise(len(x), generator_at(_CPU, seed, purpose, number)).to(device)
            yield model(x, context, noise)


@torch.no_grad()
def importance_bounds(
    model: SequentialModel,
    held_out: HeldOut,
    samples: int,
    seed: int,
    advance: Advance | None = None,
    *,
    part: int | None = None,
) -> Tensor:
    """-L_k of every image: bounds -log p(x) from above, the tighter the larger k = `samples`; float64 [N]."""
    return -importance_estimates(model, held_out, samples, seed, advance, part=part).bound


@torch.no_grad()
def importance_estimates(
    model: SequentialModel,
    held_out: HeldOut,
    samples: int,
    seed: int,
    advance: Advance | None = None,
    *,
    part: int | None = None,
) -> Importance:
    """L_k of every image with its effective sample size and its largest weight's share, float64 [N] each.

    The noise of an image depends on its place in `held_out`, and on which `part` of a larger set that is.
    """
    values = []
    for found in importance_chunks(model, held_out, samples, seed, part=part):
        if found is None:
            continue
        values.append(torch.stack(found))
        if advance:
            advance(len(found.bound) * samples)
    result = Importance(*torch.cat(values, 1))
    _finite(result.bound, f"importance-weighted bound (k={samples})")
    return result


@torch.no_grad()
def importance_chunks(
    model: SequentialModel, held_out: HeldOut, samples: int, seed: int, *, part: int | None = None
) -> Iterator[Importance | None]:
    """`importance_estimates` of a few images after another, finite or not, for who has other things to do between.

    None after every chunk of (image, sample) pairs: the images' samples may be many.
    """
    device = _device(model)
    generator = generator_at(_CPU, seed, "importance", *(() if part is None else (part,)))
    pairs = _CUDA_PAIRS if device.type == "cuda" else CHUNK
    for x, context in held_out.chunks(max(1, pairs // samples), device):
        found = yield from importance_work(model, x, context, samples, generator, chunk=pairs)
        yield Importance(*(each.double().cpu() for each in found))


def measure(
    model: SequentialModel, held_out: HeldOut, config: EvaluateConfig, advance: Advance | None = None
) -> Measurement:
    """All bounds of `model` on `held_out`, in nats per image; each bounds -log p(x) from above.

    For a conditional model `foreign_context_cost` is the bound with a context of another concept (of another
    alphabet, where contexts are of the image's) less the bound, image by image.
    """
    bounds = free_energies(model, held_out, config.seed, advance)
    metrics = _with_errors("bound", bounds.free_energy, held_out)
    metrics |= {"log_likelihood": bounds.log_likelihood.mean().item(), "kl": bounds.kl.sum().item()}
    foreign = foreign_context(held_out, config.seed)
    if foreign is not None:
        exchanged = replace(held_out, context=foreign)
        values = free_energies(model, exchanged, config.seed, advance, purpose="foreign").free_energy
        metrics |= _with_errors("bound_shuffled_context", values, held_out)
        metrics |= _with_errors("foreign_context_cost", values - bounds.free_energy, held_out)
    chosen = subset(len(held_out), config.importance_images, config.seed, "importance subset")
    k = config.importance_samples
    weighted = importance_bounds(model, held_out.take(chosen), k, config.seed, advance)
    tighter = difference_values(bounds.free_energy, weighted, chosen)
    metrics |= _with_errors(f"iwae_{k}", tighter, held_out) | {f"iwae_{k}_images": len(chosen)}
    metrics["images"] = len(held_out)
    return Measurement(metrics, bounds.free_energy, bounds.kl)


def _with_errors(name: str, values: Tensor, held_out: HeldOut) -> dict[str, float]:
    """The mean of `values` [N] as metrics: `name`, its `_se` and, where there are alphabets, its `_se_by_alphabet`."""
    mean, se, by_alphabet = clustered(values, held_out.groups, held_out.alphabets)
    metrics = {name: mean, f"{name}_se": se}
    return metrics if by_alphabet is None else {**metrics, f"{name}_se_by_alphabet": by_alphabet}


def passes(held_out: HeldOut, config: EvaluateConfig) -> int:
    """How many image passes `measure` makes, which is what its `advance` counts up to."""
    sweeps = 1 if held_out.context is None or foreign_context(held_out, config.seed) is None else 2
    return sweeps * len(held_out) + config.importance_samples * min(len(held_out), config.importance_images)


def _device(model: SequentialModel) -> torch.device:
    return next(model.parameters()).device


def _finite(values: Tensor, what: str) -> Tensor:
    bad = (~torch.isfinite(values)).nonzero()
    if len(bad):
        raise NumericalError(
            f"{what} of held-out image {int(bad[0])} is {values[bad[0]].item()}; train again"
        )
    return values
