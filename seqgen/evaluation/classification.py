"""One-shot classification by likelihood: which of 20 drawings shows the character of a test drawing (Lake et al. 2015).

With p(x | x') a model of x given another drawing of its character, log p(x | x') - log p(x) and
log p(x' | x) - log p(x') are two estimates of one thing: how much more likely the two are together than each by itself.
The two-way score is their sum. log p(x) is the same for all candidates x' and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from seqgen.core.errors import BadInput, NumericalError
from seqgen.data.batches import generator_at
from seqgen.data.images import ImageSet
from seqgen.models import SequentialModel
from seqgen.objectives import log_importance_weights

WAYS = 20
VIEWS = 8  # flips and transpositions of a square
TWO_WAY = "two_way"

_PASSES, _CUDA_PASSES = 250, 8192  # posterior samples at once
_CPU = torch.device("cpu")

Advance = Callable[[int], None]


class Run(NamedTuple):
    """Test drawings uint8 [n,H,H] and candidates [m,H,H] in {0, 1}; each test drawing's candidate, int64 [n]."""

    name: str
    test: Tensor
    training: Tensor
    answers: Tensor


class Evidence(NamedTuple):
    """What a model says of a run in each view, nats, float64 on the CPU."""

    of_test: Tensor  # log p(x_i | x'_j) [VIEWS,n,m]
    of_training: Tensor  # log p(x'_j | x_i) [VIEWS,n,m]
    alone: Tensor  # log p(x'_j) [VIEWS,m]


def background_runs(train: ImageSet, valid: ImageSet, seed: int, pairs: int) -> list[Run]:
    """Runs like Lake's of the alphabets that were trained on, for choices to be made on; `pairs` runs an alphabet.

    Twenty characters of one alphabet drawn by one person are the candidates; test drawings, by another, are only of
    those that were not trained on, which are all in the run. Left out are alphabets with fewer characters, or with none
    in `valid`. Raises BadInput if there are no others.
    """
    runs = []
    unseen, seen = _by_alphabet(valid), _by_alphabet(train)
    for alphabet in sorted(unseen):
        new, old = unseen[alphabet], seen.get(alphabet, [])
        if len(new) + len(old) < WAYS:
            continue
        for pair in range(pairs):
            generator = generator_at(_CPU, seed, "background runs", alphabet, pair)
            asked = [new[i] for i in torch.randperm(len(new), generator=generator)[:WAYS]]
            others = [old[i] for i in torch.randperm(len(old), generator=generator)[: WAYS - len(asked)]]
            drawings = torch.stack(asked + others)  # [WAYS,drawers,H,H]
            first, second = torch.randperm(drawings.shape[1], generator=generator)[:2].tolist()
            order = torch.randperm(WAYS, generator=generator)
            answers = order.argsort()[: len(asked)]
            name = f"background-{alphabet}-{pair}"
            runs.append(Run(name, drawings[: len(asked), second], drawings[order, first], answers))
    if not runs:
        raise BadInput(
            f"no alphabet has {WAYS} characters, some of them in valid: use a set with real alphabets"
        )
    return runs


def _by_alphabet(images: ImageSet) -> dict[str, list[Tensor]]:
    """The drawings of every character, uint8 [drawers,H,H] in the drawers' order, by alphabet."""
    found: dict[str, list[Tensor]] = {}
    for concept in images.concepts.unique().tolist():
        alphabet, _, _ = images.concept_names[concept].rpartition("/")
        drawings = images.pixels((images.concepts == concept).nonzero().squeeze(1)).cpu()
        found.setdefault(alphabet, []).append(drawings)
    return found


def evidence(
    model: SequentialModel, run: Run, samples: int, seed: int, *, null: bool, advance: Advance | None = None
) -> Evidence:
    """Importance-weighted estimates of all log-likelihoods of a run, from `samples` posterior samples each.

    The noise is one drawing's own, the same under every context, so that what is compared differs by the context alone.
    With `null`, log p(x'_j) is given no context, which the model must have been trained with; else it is that of the
    mixture of the contexts that the other candidates are. Raises NumericalError if an estimate is not finite.
    """
    views = [
        _evidence(model, run, samples, (seed, "classification", run.name, view), null, view, advance)
        for view in range(VIEWS)
    ]
    found = Evidence(*(torch.stack(part) for part in zip(*views, strict=True)))
    if not all(bool(part.isfinite().all()) for part in found):
        raise NumericalError(f"{run.name}: a log-likelihood is not finite; train again")
    return found


def passes(run: Run, samples: int, null: bool) -> int:
    """How many posterior samples `evidence` decodes, which is what its `advance` counts up to."""
    n, m = len(run.test), len(run.training)
    return VIEWS * samples * (n * m + m * (n + (1 if null else m - 1)))


@torch.no_grad()
def _evidence(
    model: SequentialModel,
    run: Run,
    samples: int,
    position: tuple[int | str, ...],
    null: bool,
    view: int,
    advance: Advance | None,
) -> Evidence:
    device = next(model.parameters()).device
    test, training = (turned(part, view).to(device).float().unsqueeze(1) for part in (run.test, run.training))

    def noise(side: str, count: int) -> Tensor:
        drawn = (model.noise(samples, generator_at(_CPU, *position, side, i)) for i in range(count))
        return torch.stack(list(drawn), 2).to(device)

    n, m = len(test), len(training)
    of_test = log_evidence(model, test, training, noise("test", n), _all_pairs(n, m), advance)
    drawn = noise("training", m)
    of_training = log_evidence(model, training, test, drawn, _all_pairs(m, n), advance)
    if null:
        nothing, alike = test.new_zeros(1, 0, *test.shape[2:]), torch.arange(m)
        pairs = torch.stack([alike, torch.zeros_like(alike)], 1)
        alone = log_evidence(model, training, nothing, drawn, pairs, advance)
    else:
        pairs = _all_pairs(m, m)
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        given_others = log_evidence(model, training, training, drawn, pairs, advance).view(m, m - 1)
        alone = given_others.logsumexp(1) - math.log(m - 1)
    return Evidence(of_test.view(n, m), of_training.view(m, n).T, alone)


def log_evidence(
    model: SequentialModel,
    x: Tensor,
    contexts: Tensor,
    noise: Tensor,
    pairs: Tensor,
    advance: Advance | None = None,
) -> Tensor:
    """L_k of images given contexts: nats, float64 [P] on the CPU.

    `pairs` int64 [P,2] are places in `x` [I,1,H,W] and in `contexts` [C,N,H,W]; `noise` [T,k,I,K] is an image's own.
    Memory is bounded: so many (pair, sample) at once.
    """
    at_once, samples = _CUDA_PASSES if x.device.type == "cuda" else _PASSES, noise.shape[1]
    found = []
    for part in pairs.to(x.device).split(max(1, at_once // samples)):
        images, shown, drawn = x[part[:, 0]], contexts[part[:, 1]], noise[:, :, part[:, 0]]
        total = torch.full((len(part),), -math.inf, device=x.device)
        for some in drawn.split(max(1, at_once // len(part)), dim=1):
            log_weights = log_importance_weights(model, images, shown, some.flatten(1, 2))
            total = torch.logaddexp(total, log_weights.view(-1, len(part)).logsumexp(0))
        found.append((total - math.log(samples)).double().cpu())
        if advance:
            advance(samples * len(part))
    return torch.cat(found)


def _all_pairs(first: int, second: int) -> Tensor:
    """int64 [first * second, 2], the first number's own one after the other."""
    return torch.cartesian_prod(torch.arange(first), torch.arange(second))


def turned(images: Tensor, view: int) -> Tensor:
    """Images [...,H,H] in one of VIEWS views, 0 as they are: bit 0 flips columns, bit 1 rows, bit 2 transposes."""
    axes = [axis for bit, axis in ((1, -1), (2, -2)) if view & bit]
    images = images.flip(axes) if axes else images
    return images.transpose(-1, -2) if view & 4 else images


def scores(found: Evidence) -> dict[str, Tensor]:
    """Every score [n,m] by name: the candidate with the highest is the answer. `_views` are means over all views.

    A pair of drawings mirrored or turned alike is a pair of drawings of another character: what a model says of it has
    other errors, which the mean over views makes small.
    """
    one_way, two_way = found.of_test, found.of_test + found.of_training - found.alone.unsqueeze(1)
    return {
        "one_way": one_way[0],
        TWO_WAY: two_way[0],
        "one_way_views": one_way.mean(0),
        "two_way_views": two_way.mean(0),
    }


def right(runs: Iterable[Run], found: Iterable[Evidence]) -> dict[str, Tensor]:
    """By score, which decisions are right: float64 [decisions] in {0, 1}, run after run."""
    parts = [
        {name: score.argmax(1).eq(run.answers).double() for name, score in scores(of_run).items()}
        for run, of_run in zip(runs, found, strict=True)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
