"""The driver of a Ray Train run: the actors it does without, and the checkpoint it chooses."""

from __future__ import annotations

import math

import pytest
from ray.train import Checkpoint

from pipelines.cluster.driver import best_checkpoint, trainer_class
from seqgen.core.errors import NumericalError


def test_a_training_starts_no_actor_that_it_has_no_use_for():
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    def callbacks(trainer: type[TorchTrainer]) -> set[str]:
        made = trainer(lambda: None, scaling_config=ScalingConfig(num_workers=1))
        return {type(callback).__name__ for callback in made._create_default_callbacks()}

    stock = callbacks(TorchTrainer)
    assert stock - callbacks(trainer_class(cleaner=True)) == {"DatasetsCallback"}
    assert stock - callbacks(trainer_class(cleaner=False)) == {
        "DatasetsCallback",
        "PlacementGroupCleanerCallback",
    }


def kept(*scores: float) -> list[tuple[Checkpoint, dict[str, float]]]:
    """Checkpoints of epochs 1, 2, ... with these scores."""
    return [
        (Checkpoint(f"/epoch-{epoch}"), {"score": score, "epoch": epoch})
        for epoch, score in enumerate(scores, start=1)
    ]


def test_the_lowest_bound_is_the_best_and_of_equals_the_latest():
    checkpoint, epoch, bound = best_checkpoint(kept(math.nan, 90.0, 80.5, 80.5, math.inf), "tiny")
    assert (checkpoint.path, epoch, bound) == ("/epoch-4", 4, 80.5)


def test_a_bound_that_is_not_finite_is_never_the_best():
    with pytest.raises(NumericalError, match="run tiny: no checkpoint has a finite held-out bound"):
        best_checkpoint(kept(math.nan, math.inf), "tiny")
