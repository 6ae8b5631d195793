"""Which epochs are saved, and which finished runs are gone on with."""

from __future__ import annotations

import math

import pytest

from pipelines.cluster.ending import ended, goes_on, is_saved
from seqgen.settings import TrainConfig


def asked(epochs: int, patience: int = 0) -> TrainConfig:
    return TrainConfig(epochs=epochs, batch=1, learning_rate=1e-3, patience=patience)


@pytest.mark.parametrize(
    ("mark", "train", "expected"),
    [
        (ended(50, asked(50)), asked(50), False),
        (ended(50, asked(50)), asked(60), True),
        (ended(50, asked(50, patience=5)), asked(60, patience=5), True),  # it had not lost it
        (ended(12, asked(50, patience=5)), asked(50, patience=5), False),
        (ended(12, asked(50, patience=5)), asked(90, patience=5), False),
        (ended(12, asked(50, patience=5)), asked(50, patience=10), True),
        (ended(12, asked(50, patience=5)), asked(50), True),
        (ended(12, asked(50, patience=5)), asked(12), False),
        ({"abandoned": True}, asked(50), False),
    ],
)
def test_a_run_goes_on_where_more_epochs_or_more_patience_are_asked_for(mark, train, expected):
    assert goes_on(mark, train) == expected


@pytest.mark.parametrize(
    ("bounds", "patience", "last", "expected"),
    [
        ([9.0, 8.0, 7.0], 0, False, False),
        ([9.0, 8.0, 7.0, 7.5], 0, False, True),  # every fourth
        ([9.0, 8.0, 7.5], 0, True, True),
        ([9.0, 8.0, 7.0], 5, False, True),  # the best, which patience compares with
        ([9.0, 7.0, 8.0], 5, False, False),
        ([math.nan, None, 8.0], 5, False, True),
        ([9.0, 8.0, None], 5, False, False),
        ([9.0, 8.0, math.nan], 5, False, False),
        ([9.0, 8.0, -math.inf], 5, False, False),
    ],
)
def test_the_last_epoch_and_every_so_many_are_saved_and_with_patience_the_best(
    bounds, patience, last, expected
):
    history = [
        {"epoch": epoch, "step": 10 * epoch, **({} if bound is None else {"valid_bound": bound})}
        for epoch, bound in enumerate(bounds, start=1)
    ]
    train = TrainConfig(epochs=50, batch=1, learning_rate=1e-3, checkpoint_every=4, patience=patience)
    assert is_saved(history, "valid_bound", last, train) == expected
