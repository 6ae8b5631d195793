"""Measure how often the model counts the digits right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.artifacts.held_out import evaluated_images
from pipelines.artifacts.one_shot import Entry, entry, lines, write_table
from pipelines.artifacts.trained_model import TrainedModel, load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.progress import Display
from pipelines.cli.signals import raise_on_stop
from pipelines.evaluate.measuring import load_for_measuring
from pipelines.tracking.publish import publish_metrics
from seqgen.core.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

    from seqgen.models import SequentialModel
    from seqgen.settings import Recipe


def count(recipe: RecipeOption = None, settings: SetOption = None) -> None:
    """Infer the number of digits on each held-out canvas and compare it with how many lie there.

    The number is that of one posterior sample an image, for `evaluate.images` of `evaluate.split`. Only for models
    whose latents say what is present, on sets of several `data.digits`. Writes artifacts/<recipe>/one_shot/count.json.
    """
    raise_on_stop()
    trained = load_trained_model(recipe, settings or ())
    if not trained.recipe.data.has_counts:
        raise BadInput(
            f"{trained.recipe.name}: the images of its set are not told apart by how many digits they have; use a "
            "recipe with data.source=multi-mnist and, for example, data.digits=[0, 1, 2]"
        )
    entries, confusion = measure_counts(trained, _model_that_counts(trained))
    table = [f"  {row}" for row in _rows(confusion)]
    print(*lines(entries), *table, sep="\n")
    about = {
        "errors": "se: over images, taken as independent (a digit of the split may lie on several)",
        "confusion": confusion.tolist(),
        "notes": ["one posterior sample an image", *_rows(confusion)],
    }
    path = write_table(trained, "count", entries, about, "How many digits there are")
    accuracy = entries["count_accuracy"]
    metric = count_metric(trained.recipe)
    publish_metrics(trained, {metric: accuracy["value"], f"{metric}_se": accuracy["se"] or 0.0}, path)
    print(f"written: {path}")


def count_metric(recipe: Recipe) -> str:
    """The accuracy's name at the run of the training, in percent."""
    return f"{recipe.evaluate.split}/{recipe.data.binarise}/count_accuracy"


def measure_counts(trained: TrainedModel, model: SequentialModel) -> tuple[dict[str, Entry], Tensor]:
    """The share of right counts, of all images and by the true count, in percent; images by (true, inferred) count."""
    import torch

    from seqgen.evaluation.counting import count_accuracy, inferred_counts

    config = trained.recipe.evaluate
    held_out = evaluated_images(trained)
    names = trained.manifest().splits[config.split].concepts  # the counts, as text, in order
    true = torch.tensor([int(name) for name in names])[held_out.concepts]
    with Display("images") as display:
        inferred = inferred_counts(model, held_out, config.seed, display.counter("count", len(held_out)))
    accuracy, confusion = count_accuracy(inferred, true)
    entries = {"count_accuracy": entry(100 * accuracy.mean, 100 * accuracy.se, len(true), unit="%")}
    for number in true.unique().tolist():
        of = true == number
        if int(of.sum()) > 1:
            share = count_accuracy(inferred[of], true[of]).accuracy
            entries[f"count_accuracy_of_{number}"] = entry(
                100 * share.mean, 100 * share.se, int(of.sum()), unit="%"
            )
    return entries, confusion


def _model_that_counts(trained: TrainedModel) -> SequentialModel:
    from seqgen.evaluation.counting import counter

    model = load_for_measuring(trained)
    if counter(model) is None:
        raise BadInput(
            f"{trained.recipe.name}: the latents of its model do not say what is present in an image; use a recipe "
            "of a model whose latents do"
        )
    return model


def _rows(confusion: Tensor) -> list[str]:
    """A line for each true number that there is: what was inferred, for how many images."""
    return [
        f"true {number}: inferred {', '.join(f'{said} for {n:,}' for said, n in enumerate(row) if n)}"
        for number, row in enumerate(confusion.tolist())
        if any(row)
    ]


if __name__ == "__main__":
    run(count)
