"""Measure the trained model on held-out images: bounds in nats with standard errors, and picture sheets."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.artifacts.trained_model import TrainedModel, load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.signals import raise_on_stop
from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import directory_writer, write_bytes, write_json
from seqgen.settings import flatten

if TYPE_CHECKING:
    from seqgen.evaluation.bounds import Advance, Measurement


def evaluate(recipe: RecipeOption = None, settings: SetOption = None) -> None:
    """Measure the trained model: held-out bounds with standard errors, KL per step, and picture sheets.

    Writes artifacts/<recipe>/evaluate and attaches it to the run. `--set evaluate.images=500` takes fewer.
    """
    from pipelines.tracking import runs

    raise_on_stop()
    trained = load_trained_model(recipe, settings or ())
    runs.connect()  # a server that is down is found before the work, not after it
    metrics = evaluate_trained(trained)
    for line in lines(metrics):
        print(line)
    print(f"written: {trained.places.evaluate}")
    publish(trained, metrics)


def evaluate_trained(trained: TrainedModel) -> dict[str, Any]:
    """Write artifacts/<recipe>/evaluate, whole or not at all, and return what metrics.json holds."""
    config = trained.recipe.evaluate
    for key in ("images", "importance_images"):
        if getattr(config, key) == 1:
            raise BadInput(f"evaluate.{key}=1: a standard error needs at least 2 images")
    if trained.recipe.data.is_omniglot and config.images is not None and config.images < 4:
        raise BadInput(
            f"evaluate.images={config.images}: a standard error needs two drawings of each of 2 concepts, 4"
        )
    trained.manifest()

    import torch

    from seqgen.data.images import load_split
    from seqgen.drawing import galleries, pictures
    from seqgen.evaluation import bounds
    from seqgen.models import load_model
    from seqgen.training.memory import image_memory

    model = load_model(trained.model).to("cuda" if torch.cuda.is_available() else "cpu")
    images = load_split(trained.places.shards, config.split, config.images, memory=image_memory())
    held_out = bounds.hold_out(images, trained.recipe.data, model.config.conditional, config.seed)
    device = next(model.parameters()).device
    print(f"evaluate: {len(held_out):,} images of {config.split} on {device}", flush=True)
    with progress(bounds.passes(held_out, config)) as advance:
        measurement = bounds.measure(model, held_out, config, advance)
    sheets = galleries.draw_sheets(model, held_out, config.seed)

    metrics: dict[str, Any] = {config.split: {trained.recipe.data.binarise: measurement.metrics}}
    with directory_writer(trained.places.evaluate) as directory:
        _write_numbers(directory, trained, measurement, metrics)
        for name, sheet in sheets.items():
            write_bytes(directory / trained.places.pictures.name / f"{name}.png", pictures.png(sheet))
    return metrics


def _write_numbers(
    directory: Path, trained: TrainedModel, measurement: Measurement, metrics: dict[str, Any]
) -> None:
    import io

    import numpy as np

    from pipelines.registry.promotion import comparable

    write_json(directory / "metrics.json", metrics)
    about = {
        **comparable(trained, len(measurement.free_energy)),
        "weights": trained.weights,
        "free_energy": measurement.metrics["bound"],
    }
    write_json(directory / "evaluation.json", about)
    stream = io.BytesIO()
    np.save(stream, measurement.free_energy.float().numpy())
    write_bytes(directory / "bounds.npy", stream.getvalue())
    rows = [f"{step},{kl:.6f}" for step, kl in enumerate(measurement.kl_per_step.tolist(), start=1)]
    write_bytes(directory / "kl_per_step.csv", "\n".join(["step,kl", *rows, ""]).encode())


def publish(trained: TrainedModel, metrics: dict[str, Any]) -> None:
    """Log `metrics` as `test/<binarise>/bound` and so on, and attach the directory, to the training's run.

    Raises OperationalError if the server does not take them; the local files are whole by then.
    """
    from mlflow.entities import Metric

    from pipelines.tracking import runs

    kept = f"the files are kept in {trained.places.evaluate}; run this again when it is up"
    run_id, step, now = trained.run["run_id"], trained.run["epochs"], time.time_ns() // 1_000_000
    values = {key.replace(".", "/"): value for key, value in flatten(metrics).items()}
    try:
        client = runs.connect()
    except OperationalError as error:
        raise OperationalError(f"{error}; {kept}") from None
    try:
        client.log_batch(run_id, [Metric(key, value, now, step) for key, value in values.items()])
    except Exception as error:
        raise OperationalError(f"{runs.explain(client.tracking_uri, error)}; {kept}") from None
    if not runs.attach(run_id, trained.places.evaluate, "evaluate"):
        raise OperationalError(f"run {run_id}: the tracking server did not take the pictures; {kept}")


def lines(metrics: dict[str, Any]) -> list[str]:
    """The bounds as aligned plain lines."""
    result = []
    for split, parts in metrics.items():
        for binarise, values in parts.items():
            for name, value in values.items():
                if name.endswith(("_se", "images")):
                    continue
                se = values.get(f"{name}_se")
                error = "" if se is None else f" ± {se:.2f}"
                result.append(f"  {split}/{binarise}/{name:<24} {value:9.2f}{error} nats")
    return result


@contextlib.contextmanager
def progress(total: int) -> Iterator[Advance]:
    """A bar with rate and time left on a terminal, a line at each quarter elsewhere."""
    if sys.stdout.isatty():
        from rich.progress import Progress

        with Progress(transient=True) as bar:
            task = bar.add_task("bounds", total=total)
            yield lambda images: bar.advance(task, images)
        return
    done = 0

    def advance(images: int) -> None:
        nonlocal done
        before, done = done, done + images
        if 4 * before // total < 4 * done // total:
            print(f"evaluate: {100 * done // total} % of the bounds", flush=True)

    yield advance


if __name__ == "__main__":
    run(evaluate)
