"""Measure the trained model on held-out images.

The tables and figures of one-shot generation are this package's other modules, each a verb.
"""

from __future__ import annotations

from pipelines.artifacts.held_out import evaluated_images
from pipelines.artifacts.measurements import Metrics, metric_lines, write_measurement
from pipelines.artifacts.trained_model import TrainedModel, load_trained_model
from pipelines.cli.command import RecipeOption, SetOption
from pipelines.cli.progress import Display
from pipelines.cli.signals import raise_on_stop
from seqgen.core.errors import BadInput
from seqgen.settings import Recipe


def evaluate(recipe: RecipeOption = None, settings: SetOption = None) -> None:
    """Measure the trained model: held-out bounds with standard errors, KL per step, and picture sheets.

    Writes artifacts/<recipe>/evaluate and attaches it to the run. `--set evaluate.images=500` takes fewer.
    """
    from pipelines.tracking import runs
    from pipelines.tracking.publish import publish_evaluation

    raise_on_stop()
    trained = load_trained_model(recipe, settings or ())
    runs.check()
    metrics = evaluate_trained(trained)
    for line in metric_lines(metrics):
        print(line)
    print(f"written: {trained.places.evaluate}")
    publish_evaluation(trained, metrics)


def evaluate_trained(trained: TrainedModel) -> Metrics:
    """Measure, draw and write artifacts/<recipe>/evaluate, whole or not at all; returns metrics.json.

    Raises BadInput before anything is touched: too few images, other shards than were trained on.
    """
    config = trained.recipe.evaluate
    _check_images(trained.recipe)
    trained.manifest()

    import torch

    from pipelines.registry.evaluation import comparable
    from seqgen.drawing import galleries
    from seqgen.evaluation import bounds

    model = trained.load().to("cuda" if torch.cuda.is_available() else "cpu")
    held_out = evaluated_images(trained)
    measured_on = comparable(trained, len(held_out))
    device = next(model.parameters()).device
    print(f"evaluate: {len(held_out):,} images of {config.split} on {device}", flush=True)
    with Display("images") as display:
        advance = display.counter("bounds", bounds.passes(held_out, config))
        measurement = bounds.measure(model, held_out, config, advance)
    sheets = galleries.draw_sheets(model, held_out, config.seed)
    return write_measurement(trained, measured_on, measurement, sheets)


def _check_images(recipe: Recipe) -> None:
    config = recipe.evaluate
    for key in ("images", "importance_images"):
        if getattr(config, key) == 1:
            raise BadInput(f"evaluate.{key}=1: a standard error needs at least 2 images")
    if recipe.data.has_characters and config.images is not None and config.images < 4:
        raise BadInput(
            f"evaluate.images={config.images}: a standard error needs drawings of several characters, 4 at least"
        )
