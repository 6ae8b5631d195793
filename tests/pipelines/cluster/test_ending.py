"""Which finished runs are gone on with."""

from __future__ import annotations

import pytest

from pipelines.cluster.ending import ended, goes_on
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
