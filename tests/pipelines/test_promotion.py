"""The rule by which a candidate becomes champion, against closed forms and simulated noise."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pipelines.registry.competition import clusters_of
from pipelines.registry.evaluation import Clusters, Evaluation
from pipelines.registry.promotion import Rule, decide
from seqgen.data.manifest import Manifest, SplitIndex
from seqgen.evaluation.bounds import HeldOut

BY_NOTHING = Rule(0.0, 0.0)


def evaluation(
    bounds: list[float] | torch.Tensor, clusters: list[int] | None = None, **data: Any
) -> Evaluation:
    values = torch.as_tensor(bounds, dtype=torch.float64)
    ids = Clusters("character", torch.tensor(clusters)) if clusters else None
    return Evaluation({"images": len(values), "seed": 0, **data}, values, clusters=ids)


def test_paired_difference_against_the_closed_form() -> None:
    decision = decide(evaluation([1.0, 2.0, 3.0]), evaluation([2.0, 4.0, 6.0]), "v1", BY_NOTHING)
    assert decision.promoted
    assert decision.difference == pytest.approx(2.0)  # of 1, 2, 3
    assert decision.difference_se == pytest.approx(1 / math.sqrt(3))


def test_drawings_of_one_character_are_one_observation_of_the_difference() -> None:
    candidate, champion = [0.0] * 4, evaluation([1.0, 1.0, 3.0, 3.0])
    assert decide(evaluation(candidate), champion, "v1", BY_NOTHING).difference_se == pytest.approx(
        1 / math.sqrt(3)
    )
    decision = decide(evaluation(candidate, [5, 5, 8, 8]), champion, "v1", BY_NOTHING)
    assert (decision.difference, decision.difference_se) == pytest.approx((2.0, 1.0))  # of 1 and 3
    assert "2 characters" in decision.reason


@pytest.mark.parametrize(
    ("min_gain", "z", "promoted"),
    [(0, 0, True), (0, 2, True), (0, 4, False), (1.9, 2, True), (2.0, 2, False), (5, 0, False)],
)
def test_a_gain_must_exceed_both_what_is_asked_and_noise(min_gain: float, z: float, promoted: bool) -> None:
    """A difference of 2 with the standard error 0.5, of so many images that t is the normal distribution."""
    count = 40_000
    differences = 2 + 100 * torch.tensor([1.0, -1.0]).repeat(count // 2)
    decision = decide(
        evaluation(torch.zeros(count)), evaluation(differences), "v1", Rule(float(min_gain), float(z))
    )
    assert decision.difference_se == pytest.approx(0.5, rel=1e-4)
    assert decision.promoted == promoted


def test_noise_is_promoted_as_rarely_as_z_says() -> None:
    """Equal models, differences of pure noise: the rule of one error in 44, of 5 clusters and of 1000 images."""
    generator = torch.Generator().manual_seed(0)
    trials = 2000
    for clusters, images in ((5, 4), (1000, 1)):
        ids = torch.arange(clusters).repeat_interleave(images).tolist() if images > 1 else None
        found = {2.0: 0, 0.0: 0}
        for _ in range(trials):
            noise = torch.randn(clusters, generator=generator, dtype=torch.float64).repeat_interleave(images)
            for z in found:
                candidate = evaluation(torch.zeros(len(noise)), ids)
                found[z] += decide(candidate, evaluation(noise), "v1", Rule(0.0, z)).promoted
        expected = trials * 0.5 * math.erfc(2 / math.sqrt(2))  # P(Z > 2)
        assert abs(found[2.0] - expected) < 4 * math.sqrt(expected)
        assert abs(found[0.0] - trials / 2) < 4 * math.sqrt(trials / 4)  # without z a coin is tossed


def test_not_finite_never_wins_and_never_defends() -> None:
    broken = evaluation([math.nan, 1.0])
    assert not decide(broken, None, "v1", Rule()).promoted
    assert not decide(broken, broken, "v1", Rule()).promoted
    assert decide(evaluation([9.0, 1.0]), broken, "v1", Rule()).promoted


def test_other_data_is_named() -> None:
    decision = decide(evaluation([1.0, 2.0], seed=1), evaluation([3.0, 4.0]), "v1", Rule())
    assert not decision.promoted
    assert "seed" in decision.reason


@pytest.mark.parametrize(
    ("of_train", "alphabets", "kind"),
    [(["A/1"], [0, 1], "alphabet"), (["B/1"], [0, 1], "character"), (["A/1"], [0, 0], "character")],
)
def test_alphabets_are_clusters_where_they_are_new(
    of_train: list[str], alphabets: list[int], kind: str
) -> None:
    x = torch.zeros(2, 1, 1, 1)
    held_out = HeldOut(x, None, torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor(alphabets))
    splits = {
        "train": SplitIndex(images=1, concepts=tuple(of_train), shards=()),
        "test": SplitIndex(images=2, concepts=("B/1", "C/1"), shards=()),
    }
    found = clusters_of(held_out, Manifest.model_construct(splits=splits), "test")
    assert found is not None
    assert found.kind == kind
    assert (
        clusters_of(HeldOut(x, None, torch.tensor([0, 1])), Manifest.model_construct(splits=splits), "test")
        is None
    )
