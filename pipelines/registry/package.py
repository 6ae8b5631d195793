"""The trained model as an MLflow model: safetensors, JSON and the code that reads them, and no pickle."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.artifacts.trained_model import TrainedModel
from pipelines.tracking.lineage import ROOT

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

# What loading imports; `seqgen` of a registered model is these files and no more.
_CODE = (
    "seqgen/__init__.py",
    "seqgen/core",
    "seqgen/data/__init__.py",
    "seqgen/data/settings.py",
    "seqgen/models",
    "seqgen/native",
    "seqgen/ops",
    "seqgen/settings",
)
_REQUIREMENTS = ("mlflow", "numpy", "pydantic", "pyyaml", "safetensors", "torch")
SERVING = ROOT / "seqgen" / "serving" / "pyfunc.py"


def parts(trained: TrainedModel) -> dict[str, Path]:
    """The files a registered version carries as `artifacts/<file name>`, by their key in MLmodel."""
    return {
        "model": trained.model,
        "bounds": trained.places.evaluate / "bounds.npy",
        "evaluation": trained.places.evaluate / "evaluation.json",
        "recipe": trained.places.train / "recipe.json",
        "manifest": trained.places.shards / "manifest.json",
    }


def save_package(trained: TrainedModel, description: Model, path: Path) -> None:
    """Write the MLflow model to the new directory `path`; `description` ties it to its run."""
    import mlflow.pyfunc

    shape = json.loads((trained.model / "model.json").read_text())
    # MLflow warns of a `predict` without type hints, from which it would guess the signature given here.
    with tempfile.TemporaryDirectory() as staging, warnings.catch_warnings(record=True):
        for name in _CODE:
            source, target = ROOT / name, Path(staging) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source, target)
        mlflow.pyfunc.save_model(
            path,
            mlflow_model=description,
            python_model=str(SERVING),
            artifacts={key: str(part) for key, part in parts(trained).items()},
            code_paths=[str(Path(staging) / package) for package in ("seqgen",)],
            pip_requirements=requirements(),
            signature=_signature(shape),
            input_example=_example(shape),
        )
    # MLflow notes where each file came from: a path of this machine, which nothing reads
    for entry in description.flavors["python_function"]["artifacts"].values():
        entry["uri"] = entry["path"]
    description.save(str(path / "MLmodel"))


def requirements() -> list[str]:
    """The packages that loading needs, pinned to what is installed (without a local build's suffix)."""
    return [f"{package}=={version(package).partition('+')[0]}" for package in _REQUIREMENTS]


def _signature(shape: dict[str, Any]) -> ModelSignature:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    size = (shape["height"], shape["width"])
    seed = ParamSpec("seed", "integer", 0)
    if shape["config"]["conditional"]:
        inputs = TensorSpec(np.dtype("float32"), (-1, *size))
        outputs = TensorSpec(np.dtype("float32"), (-1, -1, *size))
        parameters = [ParamSpec("samples", "integer", 1), seed]
    else:
        inputs = TensorSpec(np.dtype("int64"), (1,))
        outputs = TensorSpec(np.dtype("float32"), (-1, *size))
        parameters = [seed]
    return ModelSignature(Schema([inputs]), Schema([outputs]), ParamSchema(parameters))


def _example(shape: dict[str, Any]) -> Any:
    """A vertical stroke as context, or four images."""
    import numpy as np

    if not shape["config"]["conditional"]:
        return np.array([4], np.int64), {"seed": 0}
    image = np.zeros((1, shape["height"], shape["width"]), np.float32)
    image[:, shape["height"] // 4 : 3 * shape["height"] // 4, shape["width"] // 2] = 1
    return image, {"samples": 2, "seed": 0}
