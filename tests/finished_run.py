"""A recipe that was fetched, sharded, trained and evaluated, in miniature, for tests of what comes after."""

from __future__ import annotations

import functools
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pipelines.artifacts.held_out import evaluated_images
from pipelines.artifacts.places import places
from pipelines.artifacts.trained_model import TrainedModel, load_trained_model
from pipelines.recipes import load_recipe
from pipelines.registry.evaluation import comparable
from pipelines.tracking import lineage, runs
from seqgen.data.manifest import read_manifest
from seqgen.evaluation.bounds import free_energies
from seqgen.models import build, save_model
from tests.sets import write_digits, write_strokes

WORSE = 0.5  # the ink an untrained model starts from; its data's mean is far better
MODEL = {
    "steps": 2,
    "latents": 3,
    "hidden": 8,
    "attention": "full",
    "canvas": "additive",
    "canvas_channels": 1,
}


def tiny_recipe(
    directory: Path,
    *,
    conditional: bool = False,
    name: str = "tiny",
    register: dict[str, Any] | None = None,
    **train: Any,
) -> Path:
    """Write a recipe file for the sets of tests/sets.py and return its path."""
    digits = {"source": "mnist-5k", "size": 28, "binarise": "dynamic"}
    strokes = {"source": "omniglot-strokes", "size": 28, "split": "30-20", "binarise": "static"}
    tree = {
        "description": "for tests",
        "data": strokes if conditional else digits,
        "model": {**MODEL, "observation": "identity", "conditional": conditional},
        "train": {"epochs": 1, "batch": 16, "learning_rate": 0.001, **train},
        "evaluate": {"importance_samples": 2},
        "register": {"name": "tiny", **(register or {})},
    }
    path = directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def finished_run(
    recipe: Path, *, mean: float | None = None, seed: int = 0, data_seed: int = 0
) -> TrainedModel:
    """What fetch, shard, train and evaluate leave in the working directory, with an untrained model.

    `mean` is the ink the model starts from: the data's own (the default) gives a far better bound than 0.5.
    """
    wanted = load_recipe(str(recipe))
    where = places(wanted)
    if not where.shards.exists():
        if wanted.data.is_omniglot:
            write_strokes(where.shards, seed=data_seed)
        else:
            write_digits(where.shards, seed=data_seed, binarise=wanted.data.binarise)
    manifest = read_manifest(where.shards)
    torch.manual_seed(seed)
    model = build(wanted.model, manifest.height, manifest.width, manifest.mean if mean is None else mean)
    save_model(model, where.train / "model")
    run_id = runs.open_run(wanted, manifest)
    run = {
        "run_id": run_id,
        "run_name": "tiny",
        "tracking_uri": runs.tracking_uri(),
        "epochs": 1,
        "steps": 4,
        "settings_digest": wanted.digest(),
        "request_digest": lineage.training_request(wanted),
        "manifest_digest": manifest.digest,
    }
    (where.train / "run.json").write_text(json.dumps(run))
    (where.train / "recipe.json").write_text(wanted.model_dump_json(by_alias=True))
    trained = load_trained_model(str(recipe))
    write_evaluation(trained)
    runs.close_run(run_id, "FINISHED")
    return trained


def write_evaluation(trained: TrainedModel) -> None:
    """Write what the registry takes of the evaluate stage, measured on the model there is."""
    from seqgen.models import load_model

    config = trained.recipe.evaluate
    model = load_model(trained.model)
    held_out = evaluated_images(trained)
    bounds = free_energies(model, held_out, config.seed).free_energy
    about = {"weights": trained.weights, "free_energy": bounds.mean().item()}
    data = comparable(trained, len(bounds)) | about
    write_bounds(trained.places.evaluate, data, bounds.float().numpy())
    metrics = {config.split: {trained.recipe.data.binarise: {"bound": bounds.mean().item()}}}
    (trained.places.evaluate / "metrics.json").write_text(json.dumps(metrics))


def write_bounds(directory: Path, data: dict[str, Any], bounds: np.ndarray) -> None:
    """The two files of an evaluation that the registry reads."""
    directory.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    np.save(stream, bounds)
    (directory / "bounds.npy").write_bytes(stream.getvalue())
    (directory / "evaluation.json").write_text(json.dumps(data))


@functools.cache
def _empty_store() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        runs.connect(f"sqlite:///{directory}/mlflow.db")
        return (Path(directory) / "mlflow.db").read_bytes()


def work_in(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `directory` the working directory, with an empty mlflow.db (its tables cost seconds to make)."""
    (directory / "mlflow.db").write_bytes(_empty_store())
    for name in ("MLFLOW_TRACKING_URI", "SEQGEN_ARTIFACTS", "SEQGEN_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(directory)


def outside(**more: str) -> dict[str, str]:
    """The environment of a fresh process of ours: the repository importable, no tracking server but ours."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "SEQGEN_"))}
    return {**kept, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1", **more}


def stored(here: Path, version: str = "1", name: str = "tiny") -> Path:
    """Where the local artifact store of the directory `here` has the artifacts of a version."""
    client = runs.connect()
    run = client.get_run(client.get_model_version(name, version).run_id or "")
    assert run.outputs is not None
    (output,) = run.outputs.model_outputs
    return here / "mlartifacts/models" / output.model_id / "artifacts/artifacts"
