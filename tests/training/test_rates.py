"""The range test of the learning rate: its rates, its curve, what it suggests, and that this trains."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from seqgen.core.errors import StoppedEarly
from seqgen.models import build
from seqgen.settings import ModelConfig, TrainConfig
from seqgen.training import Callback, EachEpoch, fit
from seqgen.training.range_test import Curve, RangeTest
from tests.training.child import BITS, DATA, MODEL, NVIL, TRAIN, digits, spoil

STEPS = 60
IWAE = TrainConfig(**TRAIN.given() | {"objective": "iwae", "importance_samples": 2})


class Losses(Callback):
    """The loss of every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def step(self, metrics: dict[str, torch.Tensor]) -> None:
        self.seen.append(float(metrics["free_energy"]))


def settings(train: TrainConfig, **changes: object) -> TrainConfig:
    return train.model_copy(update=changes)


def curve_of(model: ModelConfig, train: TrainConfig, broken: tuple[int, ...] = ()) -> Curve:
    torch.manual_seed(0)
    made, test = build(model, 28, 28), RangeTest(STEPS)
    spoil(made, list(broken))
    with pytest.raises(StoppedEarly):
        fit(
            made,
            digits(60),
            None,
            DATA,
            settings(train, epochs=12, max_skipped=STEPS),
            callbacks=[test],
            schedule=test.rate,
        )
    return test.curve


@pytest.mark.parametrize(
    ("model", "train"),
    [(MODEL, TRAIN), (BITS, NVIL), (MODEL, IWAE)],
    ids=["pathwise", "score-function", "iwae"],
)
def test_the_optimiser_has_the_geometric_rates_and_the_first_loss_is_a_trainings(
    model: ModelConfig, train: TrainConfig
):
    rates: list[list[float]] = []
    hook = register_optimizer_step_pre_hook(
        lambda optimiser, *_: rates.append([group["lr"] for group in optimiser.param_groups])
    )
    try:
        curve = curve_of(model, train)
    finally:
        hook.remove()
    count = len(curve.losses)
    assert count == STEPS or curve.ended == "diverged"
    assert [of_model for of_model, *_ in rates] == pytest.approx(np.geomspace(1e-6, 1, STEPS)[:count])
    assert curve.rates == [of_model for of_model, *_ in rates]
    if len(rates[0]) == 2:  # the baseline's
        assert {round(own / of_model, 6) for of_model, own in rates} == {train.of("objective").baseline_rate}

    plain = Losses()
    torch.manual_seed(0)
    fit(build(model, 28, 28), digits(60), None, DATA, settings(train, epochs=1), callbacks=[plain])
    assert curve.losses[0] == plain.seen[0]
    assert curve.losses[5] != plain.seen[4]


def test_a_training_at_the_suggested_rate_beats_those_far_below_and_above():
    suggestion = curve_of(MODEL, TRAIN).suggestion
    assert suggestion is not None
    last: dict[float, float] = {}
    for factor in (0.01, 1, 100):
        rows: list[float] = []
        torch.manual_seed(0)
        fit(
            build(MODEL, 28, 28),
            digits(60),
            None,
            DATA,
            settings(TRAIN, epochs=6, learning_rate=min(1.0, factor * suggestion)),
            callbacks=[
                EachEpoch(lambda progress, save, to=rows: to.append(progress.metrics["train/free_energy"]))
            ],
        )
        last[factor] = rows[-1]
        if factor == 1:
            assert rows[-1] < 0.9 * rows[0]
    assert last[1] < last[0.01]
    assert last[1] < last[100]


def test_a_gradient_that_is_not_finite_ends_the_test():
    curve = curve_of(MODEL, TRAIN, broken=(7,))
    assert (curve.ended, len(curve.losses)) == ("not finite", 7)


def fed(losses: np.ndarray) -> Curve:
    curve = Curve(len(losses))
    for loss in losses:
        curve.add(float(loss))
    return curve


@pytest.mark.parametrize("level", [300.0, -50.0])
@pytest.mark.parametrize("middle", [-4.5, -3.0, -2.0])
@pytest.mark.parametrize("steps", [100, 200, 500])
def test_the_suggestion_is_where_a_known_curve_falls_fastest(steps: int, middle: float, level: float):
    exponents = np.linspace(-6, 0, steps)
    falling = level - 100 / (1 + np.exp(-(exponents - middle) / 0.3))
    rising = 10.0 ** (4 * (exponents - middle - 1.5))
    noise = np.random.default_rng(0).normal(0, 3, steps)
    curve = fed(falling + rising + noise)
    assert curve.suggestion is not None
    # The mean over a twentieth of the steps is behind by a third of a decade.
    assert math.log10(curve.suggestion) == pytest.approx(middle + 0.3, abs=0.35)


def test_the_smoothed_loss_is_the_bias_corrected_exponential_mean():
    losses = np.random.default_rng(1).normal(200, 5, 60)
    curve = fed(losses)
    kept = 1 - 1 / curve.memory
    weights = kept ** np.arange(60)[::-1]
    assert curve.smoothed[-1] == pytest.approx((weights * losses).sum() / weights.sum())
    assert curve.smoothed[0] == pytest.approx(losses[0])


@pytest.mark.parametrize("level", [300.0, -300.0])
def test_it_ends_where_the_loss_diverges_whatever_its_sign(level: float):
    curve = fed(np.concatenate([np.full(70, level), np.full(30, level + 3000.0)]))
    assert curve.ended == "diverged"
    assert 70 < len(curve.losses) < 75


def test_noise_alone_suggests_nothing():
    for seed in range(20):
        assert fed(np.random.default_rng(seed).normal(300, 10, 200)).suggestion is None


def test_nothing_is_added_after_the_end():
    curve = fed(np.array([3.0, 2.0, math.nan, 1.0]))
    assert (curve.losses, curve.ended) == ([3.0, 2.0], "not finite")
