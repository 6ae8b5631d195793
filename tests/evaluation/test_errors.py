"""Standard errors by character and by alphabet: what their intervals cover, against simulation and tables."""

from __future__ import annotations

import pytest
import torch

from seqgen.core.errors import BadInput
from seqgen.evaluation.errors import clustered, estimate, t_quantile

# How many characters the alphabets of Omniglot's evaluation set have, 659 in all; each is drawn 20 times.
EVALUATION = (20, 26, 26, 26, 26, 26, 45, 45, 41, 26, 47, 40, 30, 45, 46, 28, 23, 25, 42, 26)


def coverage(sizes: tuple[int, ...], alphabet_deviation: float, times: int = 600) -> dict[str, float]:
    """How often 95 % intervals from images of new alphabets hold the mean of all alphabets, which is 0."""
    generator = torch.Generator().manual_seed(0)
    alphabets = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)).repeat_interleave(4)
    characters = torch.arange(sum(sizes)).repeat_interleave(4)

    def normal(count: int) -> torch.Tensor:
        return torch.randn(count, generator=generator, dtype=torch.float64)

    inside = dict.fromkeys(("by character", "by alphabet", "by alphabet, normal"), 0)
    for _ in range(times):
        values = alphabet_deviation * normal(len(sizes))[alphabets]
        values += 15 * normal(sum(sizes))[characters] + 15 * normal(len(characters))
        mean, se, by_alphabet = clustered(values, characters, alphabets)
        inside["by character"] += abs(mean) < 1.96 * se
        inside["by alphabet"] += abs(mean) < t_quantile(len(sizes)) * by_alphabet
        inside["by alphabet, normal"] += abs(mean) < 1.96 * by_alphabet
    return {name: count / times for name, count in inside.items()}


def test_where_alphabets_differ_the_interval_by_character_covers_far_too_little_and_that_by_alphabet_enough():
    """An alphabet's own effect of 10 nats beside characters' and drawings' of 15 each."""
    found = coverage(EVALUATION, 10)
    assert found["by character"] < 0.6
    assert 0.91 < found["by alphabet"] < 0.98
    assert found["by alphabet, normal"] < found["by alphabet"]


def test_where_alphabets_do_not_differ_both_cover():
    found = coverage(EVALUATION, 0)
    assert 0.92 < found["by character"] < 0.98
    assert 0.91 < found["by alphabet"] < 0.98


@pytest.mark.parametrize("alphabets", [5, 10])
def test_few_alphabets_need_students_quantile(alphabets: int):
    """Splits 45-5 and 40-10, which test on the last of the evaluation set."""
    found = coverage(EVALUATION[-alphabets:], 10)
    assert found["by alphabet"] > 0.89
    assert found["by alphabet"] > found["by alphabet, normal"] + 0.01


@pytest.mark.parametrize(
    ("clusters", "quantile", "within"),
    [
        (2, 12.706, 1.5),
        (3, 4.303, 0.04),
        (5, 2.776, 0.002),
        (10, 2.262, 1e-3),
        (20, 2.093, 1e-3),
        (501, 1.965, 1e-3),
    ],
)
def test_students_quantile_is_that_of_the_tables(clusters: int, quantile: float, within: float):
    assert t_quantile(clusters) == pytest.approx(quantile, abs=within)


def test_both_errors_are_those_of_their_groups_and_none_where_there_is_one_alphabet():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(60, generator=generator)
    characters, alphabets = torch.arange(60) // 5, torch.arange(60) // 15
    found = clustered(values, characters, alphabets)
    assert found[:2] == estimate(values, characters)
    assert found.se_by_alphabet == estimate(values, alphabets).se
    assert clustered(values, characters, torch.zeros(60, dtype=torch.int64)).se_by_alphabet is None
    assert clustered(values).se_by_alphabet is None
    assert clustered(values)[:2] == estimate(values)
    with pytest.raises(BadInput, match="at least 2 concepts"):
        clustered(values, torch.zeros(60, dtype=torch.int64))
