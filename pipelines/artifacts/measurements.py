"""What the evaluate stage leaves: bounds, their standard errors and what they were measured on, and pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.artifacts.trained_model import TrainedModel
from seqgen.core.errors import BadInput
from seqgen.core.files import directory_writer, write_bytes, write_json

if TYPE_CHECKING:
    from PIL import Image

    from seqgen.evaluation.bounds import Measurement

Metrics = dict[str, dict[str, dict[str, Any]]]


def write_measurement(
    trained: TrainedModel,
    measured_on: dict[str, Any],
    measurement: Measurement,
    sheets: Mapping[str, Image.Image],
) -> Metrics:
    """Write artifacts/<recipe>/evaluate, whole or not at all; returns metrics.json: {split: {binarise: metrics}}.

    `measured_on` is what `comparable` said before it was measured.
    """
    import numpy as np

    from seqgen.drawing import pictures

    metrics: Metrics = {trained.recipe.evaluate.split: {trained.recipe.data.binarise: measurement.metrics}}
    about = {
        **measured_on,
        "weights": trained.weights,
        "free_energy": measurement.metrics["bound"],
    }
    bounds = io.BytesIO()
    np.save(bounds, measurement.free_energy.float().numpy())
    rows = [f"{step},{kl:.6f}" for step, kl in enumerate(measurement.kl_per_step.tolist(), start=1)]
    with directory_writer(trained.places.evaluate) as directory:
        write_json(directory / "metrics.json", metrics)
        write_json(directory / "evaluation.json", about)
        write_bytes(directory / "bounds.npy", bounds.getvalue())
        write_bytes(directory / "kl_per_step.csv", "\n".join(["step,kl", *rows, ""]).encode())
        for name, sheet in sheets.items():
            write_bytes(directory / trained.places.pictures.name / f"{name}.png", pictures.png(sheet))
    return metrics


def read_measurement(trained: TrainedModel) -> tuple[dict[str, Any], dict[str, float]]:
    """evaluation.json and the metrics it names. Raises BadInput if the model was not evaluated."""
    directory = trained.places.evaluate
    measured, metrics = read_json(directory / "evaluation.json"), read_json(directory / "metrics.json")
    remedy = f"run `seqgen evaluate --recipe {trained.recipe.name}`"
    if measured is None or metrics is None:
        raise BadInput(f"{directory}: not evaluated yet; {remedy}")
    if measured.get("weights") != trained.weights:
        raise BadInput(f"{directory}: measured on other weights than {trained.model}; {remedy}")
    return measured, metrics[measured["split"]][measured["binarise"]]


def bound_rows(metrics: dict[str, float]) -> list[dict[str, Any]]:
    """The table of bounds: name, value and standard errors (None where none was made) in nats, meaning."""
    weighted = next((key for key in metrics if key.startswith("iwae_") and f"{key}_se" in metrics), "")
    k, images = weighted.removeprefix("iwae_"), int(metrics.get(f"{weighted}_images", 0))
    meanings = {
        "bound": (
            "F, free energy",
            "bound on the negative log-likelihood: F = KL - log-likelihood; lower is better",
        ),
        "log_likelihood": ("log-likelihood", "E[log p(x | z)]: how well the last canvas explains the image"),
        "kl": ("KL", "KL[q(z | x) || p(z)], summed over the steps"),
        weighted: (
            f"IWAE-{k}",
            f"tighter bound from {k} weighted samples; measured on {images:,} random images, "
            "carried to all by their difference to F",
        ),
        "bound_shuffled_context": ("F, foreign context", "F with x' of another concept"),
        "foreign_context_cost": (
            "cost of a foreign context",
            "F with x' of another concept less F, image by image; not what x' is worth against having none",
        ),
    }
    return [
        {
            "name": name,
            "value": metrics[key],
            "se": metrics.get(f"{key}_se"),
            "se_by_alphabet": metrics.get(f"{key}_se_by_alphabet"),
            "meaning": meaning,
        }
        for key, (name, meaning) in meanings.items()
        if key in metrics
    ]


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object a stage left, None if the stage did not run."""
    return json.loads(path.read_text()) if path.is_file() else None


def metric_lines(metrics: Metrics) -> list[str]:
    """The bounds as aligned plain lines."""
    result = []
    for split, parts in metrics.items():
        for binarise, values in parts.items():
            for name, value in values.items():
                if name.endswith(("_se", "_se_by_alphabet", "images")):
                    continue
                se, by_alphabet = values.get(f"{name}_se"), values.get(f"{name}_se_by_alphabet")
                error = "" if se is None else f" ± {se:.2f}"
                error += "" if by_alphabet is None else f" (by alphabet ± {by_alphabet:.2f})"
                result.append(f"  {split}/{binarise}/{name:<24} {value:9.2f}{error} nats")
    return result
