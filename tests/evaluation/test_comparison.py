"""Two splits compared: against the plain formulas, resampled clusters and what was put in."""

from __future__ import annotations

import math

import pytest
import torch

from seqgen.evaluation.comparison import Splits
from seqgen.evaluation.errors import estimate


def normal(count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(count, generator=generator, dtype=torch.float64)


def test_the_difference_of_splits_without_a_common_cluster_has_both_errors():
    generator = torch.Generator().manual_seed(0)
    first, second = normal(40, generator), normal(60, generator) + 3
    groups, alphabets = [torch.arange(40) // 4, torch.arange(60) // 4 + 10], [torch.arange(40) // 20] * 2
    alphabets[1] = torch.arange(60) // 12 + 2
    splits = Splits([40, 60], groups, alphabets)
    found = splits.with_errors(splits.difference([first, second]))
    assert found.value == pytest.approx((second.mean() - first.mean()).item())
    for error, by in ((found.se, groups), (found.se_by_alphabet, alphabets)):
        assert error == pytest.approx(math.hypot(estimate(first, by[0]).se, estimate(second, by[1]).se))
    alone = Splits([40, 60])
    plain = alone.with_errors(alone.difference([first, second]))
    assert plain.se == pytest.approx(math.hypot(estimate(first).se, estimate(second).se))
    assert plain.se_by_alphabet is None


def test_what_an_alphabet_does_to_both_splits_cancels():
    generator = torch.Generator().manual_seed(1)
    alphabets = torch.arange(200) // 20
    effect = 50 * normal(10, generator)[alphabets]
    first, second = effect + normal(200, generator), effect + normal(200, generator) + 2
    characters = [torch.arange(200) // 4, torch.arange(200) // 4 + 50]
    shared = Splits([200, 200], characters, [alphabets, alphabets])
    found = shared.with_errors(shared.difference([first, second]))
    assert found.se_by_alphabet < 0.3
    assert abs(found.value - 2) < 4 * found.se_by_alphabet
    assert estimate(first, alphabets).se > 5
    # The same alphabets, so that the difference is a paired one, alphabet by alphabet.
    by_alphabet = (second - first).view(10, 20).mean(1)
    assert found.se_by_alphabet == pytest.approx(estimate(by_alphabet).se)


def test_errors_of_shares_and_regressions_are_the_deviations_of_resampled_characters():
    """The bootstrap over characters, which knows nothing of influence functions."""
    generator = torch.Generator().manual_seed(2)
    counts, drawings = (60, 150), 5
    yard = [
        30 + 6 * split + 8 * normal(n, generator).repeat_interleave(drawings)
        for split, n in enumerate(counts)
    ]
    yard = [one + 3 * normal(len(one), generator) for one in yard]
    model = [1.3 * one + 5 + 2 * split + 4 * normal(len(one), generator) for split, one in enumerate(yard)]
    model = [
        one + 4 * normal(n, generator).repeat_interleave(drawings)
        for one, n in zip(model, counts, strict=True)
    ]
    groups = [
        torch.arange(counts[0] * drawings) // drawings,
        torch.arange(counts[1] * drawings) // drawings + 1000,
    ]

    def figures(
        y: list[torch.Tensor], x: list[torch.Tensor], by: list[torch.Tensor]
    ) -> dict[str, tuple[float, float]]:
        splits = Splits([len(one) for one in y], by)
        whole, part, slope = splits.difference(y), splits.difference(x), splits.slope(y, x)
        named = {
            "share": part / whole,
            "slope": slope,
            "explained": slope * part,
            "left": whole - slope * part,
        }
        return {name: splits.with_errors(one)[:2] for name, one in named.items()}

    found = figures(model, yard, groups)
    assert abs(found["slope"][0] - 1.3) < 3 * found["slope"][1]
    assert abs(found["left"][0] - 2) < 3 * found["left"][1]
    resampled: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(500):
        index = []
        for count in counts:
            character = torch.randint(count, (count,), generator=generator)
            index.append((drawings * character.unsqueeze(1) + torch.arange(drawings)).flatten())
        again = figures(
            *([one[at] for one, at in zip(each, index, strict=True)] for each in (model, yard, groups))
        )
        for name, (value, _) in again.items():
            resampled[name].append(value)
    for name, (_, se) in found.items():
        assert se == pytest.approx(torch.tensor(resampled[name]).std().item(), rel=0.15), name


def test_the_slope_is_that_of_least_squares_with_a_mean_for_each_split():
    generator = torch.Generator().manual_seed(3)
    yard = [normal(20, generator), normal(30, generator) + 5]
    model = [2 * yard[0] + normal(20, generator), 2 * yard[1] - 7 + normal(30, generator)]
    x = torch.cat(yard)
    design = torch.stack([x, (torch.arange(50) < 20).double(), (torch.arange(50) >= 20).double()], 1)
    solution = torch.linalg.lstsq(design, torch.cat(model).unsqueeze(1)).solution.flatten()
    splits = Splits([20, 30])
    slope = splits.slope(model, yard)
    assert slope.value == pytest.approx(solution[0].item())
    left = splits.difference(model) - slope * splits.difference(yard)
    assert left.value == pytest.approx((solution[2] - solution[1]).item())
    # Heteroscedasticity-robust errors of least squares (White 1980), with each split's N/(N-1).
    residual = torch.cat(model) - design @ solution
    scale = torch.where(torch.arange(50) < 20, 20 / 19, 30 / 29)
    bread = torch.linalg.inv(design.T @ design)
    meat = design.T @ (design * (scale * residual.square()).unsqueeze(1))
    assert splits.with_errors(slope).se == pytest.approx(math.sqrt((bread @ meat @ bread)[0, 0].item()))
