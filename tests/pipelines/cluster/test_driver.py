"""The driver of a Ray Train run: the actors it does without."""

from __future__ import annotations

from pipelines.cluster.driver import trainer_class


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
