"""Two splits compared: differences of means, shares and regressions over their images, with clustered errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqgen.evaluation.errors import Clustered, cluster_count, sum_by


@dataclass(frozen=True)
class Statistic:
    """A figure and what each image does to it, to first order (its influence function); arithmetic is linearised."""

    value: float
    influence: Tensor  # float64 [N], N images of all splits

    def __sub__(self, other: Statistic) -> Statistic:
        return Statistic(self.value - other.value, self.influence - other.influence)

    def __mul__(self, other: Statistic) -> Statistic:
        return Statistic(
            self.value * other.value, self.influence * other.value + other.influence * self.value
        )

    def __truediv__(self, other: Statistic) -> Statistic:
        ratio = self.value / other.value if other.value else math.nan
        return Statistic(ratio, (self.influence - ratio * other.influence) / other.value)


class Splits:
    """The images of some splits and what they are clustered by; a cluster's id is the same in every split."""

    def __init__(
        self,
        counts: Sequence[int],
        groups: Sequence[Tensor | None] = (),
        alphabets: Sequence[Tensor | None] = (),
    ) -> None:
        """`counts` images in each split; `groups` and `alphabets` int64 [count] for each, or None where unknown."""
        self._counts = tuple(counts)
        self._groups, self._alphabets = _joined(groups), _joined(alphabets)

    def mean(self, values: Tensor, split: int) -> Statistic:
        """The mean of `values` [count], one for each image of a split."""
        values = values.double()
        mean = values.mean()
        return self._of_split((values - mean) / len(values), mean.item(), split)

    def difference(self, values: Sequence[Tensor]) -> Statistic:
        """The mean of the second split less that of the first; `values` [count] of both."""
        return self.mean(values[1], 1) - self.mean(values[0], 0)

    def slope(self, values: Sequence[Tensor], yardstick: Sequence[Tensor]) -> Statistic:
        """The least-squares slope of `values` on `yardstick`, image by image, each split with its own mean."""
        y, x = (torch.cat([of.double() - of.double().mean() for of in each]) for each in (values, yardstick))
        squares = x.square().sum()
        slope = (x * y).sum() / squares
        return Statistic(slope.item(), x * (y - slope * x) / squares)

    def with_errors(self, statistic: Statistic) -> Clustered:
        """The figure with its errors by group and by alphabet."""
        by_alphabet = None
        if self._alphabets is not None and min(self._clusters(self._alphabets)) >= 2:
            by_alphabet = self._error(statistic.influence, self._alphabets)
        return Clustered(statistic.value, self._error(statistic.influence, self._groups), by_alphabet)

    def _of_split(self, influence: Tensor, value: float, split: int) -> Statistic:
        parts = [torch.zeros(count, dtype=torch.float64) for count in self._counts]
        parts[split] = influence
        return Statistic(value, torch.cat(parts))

    def _clusters(self, groups: Tensor | None) -> list[int]:
        if groups is None:
            return list(self._counts)
        return [cluster_count(part) for part in groups.split(self._counts)]

    def _error(self, influence: Tensor, groups: Tensor | None) -> float:
        """sqrt sum_g (sum_{i in g} psi_i)^2, each split's psi times its own sqrt(G/(G-1)).

        A cluster that is in two splits is one: what it does to both cancels in their difference.
        """
        parts = zip(influence.split(self._counts), self._clusters(groups), strict=True)
        corrected = torch.cat(
            [part * math.sqrt(g / (g - 1)) if g > 1 else part * math.nan for part, g in parts]
        )
        return math.sqrt(sum_by(corrected, groups).square().sum().item())


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known and len(known) == len(parts) else None
