"""Rates and weights as functions of the step."""

from __future__ import annotations

import pytest

from seqgen.settings import TrainConfig
from seqgen.training.schedule import average_decay, learning_rate

CONFIG = TrainConfig(epochs=1, batch=1, learning_rate=0.1, warmup_steps=10, final_rate=0.2, kl_warmup_steps=4)


def test_the_rate_rises_then_falls_to_its_final_share():
    rates = [learning_rate(step, 110, CONFIG) for step in range(111)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[9] == rates[10] == pytest.approx(0.1)
    assert rates[60] == pytest.approx(0.1 * (0.2 + 0.8 / 2))
    assert rates[110] == pytest.approx(0.02)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_run_that_is_all_warm_up_never_passes_its_rate():
    assert max(learning_rate(step, 5, CONFIG) for step in range(5)) == pytest.approx(0.05)


def test_a_young_average_forgets_quickly():
    assert [average_decay(step, 0.9) for step in (0, 10, 1000)] == [0.1, 11 / 20, 0.9]
