"""Means over images with honest standard errors: the images of a character, or of an alphabet, are one observation."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from seqgen.core.errors import BadInput

_NORMAL = 1.959963984540054  # 97.5 % quantile


class Estimate(NamedTuple):
    """A mean over images and the standard error of that mean."""

    mean: float
    se: float


class Clustered(NamedTuple):
    """A figure with its standard error by character (by image where those are independent) and by alphabet.

    `se_by_alphabet` is None where alphabets are unknown, or one only.
    """

    value: float
    se: float
    se_by_alphabet: float | None = None


def estimate(values: Tensor, groups: Tensor | None = None) -> Estimate:
    """Mean and standard error of `values` [N], N >= 2.

    The error is the sample standard deviation over sqrt N or, with `groups` (int64 [N]), the cluster-robust
    sqrt(G/(G-1) sum_g (sum_{i in g} (v_i - mean))^2) / N; both agree where every group is one image.
    """
    count = len(values)
    if count < 2:
        raise BadInput(f"a standard error needs at least 2 images, not {count}; raise evaluate.images")
    values = values.double()
    mean = values.mean()
    if groups is None:
        return Estimate(mean.item(), values.std(correction=1).item() / math.sqrt(count))
    clusters = cluster_count(groups)
    if clusters < 2:
        raise BadInput("a standard error needs images of at least 2 concepts, not 1; raise evaluate.images")
    variance = clusters / (clusters - 1) * sum_by(values - mean, groups).square().sum().item()
    return Estimate(mean.item(), math.sqrt(variance) / count)


def clustered(values: Tensor, groups: Tensor | None = None, alphabets: Tensor | None = None) -> Clustered:
    """The mean of `values` [N] with both errors; `groups` and `alphabets` are int64 [N]."""
    by_alphabet = None if cluster_count(alphabets) < 2 else estimate(values, alphabets).se
    return Clustered(*estimate(values, groups), by_alphabet)


def difference_values(bounds: Tensor, tighter: Tensor, chosen: Tensor) -> Tensor:
    """N values whose mean estimates that of a bound known for n of N images, `tighter` [n] at `chosen` [n].

    The difference estimator of survey sampling: the mean of `bounds` [N] less the mean gain on the chosen
    images, so that easy or hard chosen images do not shift it. The gain counts N/n-fold where it is known; the
    standard error of these values, with groups or without, is the estimate's.
    """
    total, known = len(bounds), len(tighter)
    if known < 2:
        raise BadInput("a standard error needs at least 2 images, not 1; raise evaluate.importance_images")
    values = bounds.double().clone()
    gain = values[chosen] - tighter.double()
    values[chosen] -= total / known * (gain - gain.mean())
    return values - gain.mean()


def t_quantile(clusters: int) -> float:
    """How many standard errors of `clusters` clusters a 95 % interval reaches to each side.

    The 97.5 % quantile of Student's t with clusters - 1 degrees of freedom, by the expansion 26.7.5 of Abramowitz and
    Stegun: 0.1 % low with 4 clusters, 1 % with 3, 11 % with 2.
    """
    z, v = _NORMAL, clusters - 1
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return math.fsum(term / v**power for power, term in enumerate(terms))


def cluster_count(groups: Tensor | None) -> int:
    """How many different clusters `groups` names; 0 for None."""
    return 0 if groups is None else len(groups.unique())


def sum_by(values: Tensor, groups: Tensor | None) -> Tensor:
    """The sums of `values` float64 [N] over the images of each cluster, [G]; [N] as they are for None."""
    if groups is None:
        return values
    present, group = groups.unique(return_inverse=True)
    return torch.zeros(len(present), dtype=values.dtype).index_add_(0, group, values)
