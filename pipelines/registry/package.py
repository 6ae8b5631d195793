"""The trained model as an MLflow model: safetensors, JSON and the code that reads them, and no pickle."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Collection, Iterable
from importlib.metadata import distribution, packages_distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.artifacts.trained_model import TrainedModel
from pipelines.registry.card import model_card
from pipelines.registry.evaluation import Evaluation
from pipelines.tracking.source_files import NOT_SHIPPED, SHIPPED, SourceFiles, source_files
from seqgen.core.files import write_bytes
from seqgen.serving.loading import CODE

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature


CARD = "README.md"


def parts(trained: TrainedModel) -> dict[str, Path]:
    """What a registered version carries as `artifacts/<file name>`, by its key in MLmodel; its evaluation beside it."""
    return {
        "model": trained.model,
        "metrics": trained.places.evaluate / "metrics.json",
        "recipe": trained.places.train / "recipe.json",
        "manifest": trained.manifest_file,
    }


def save_package(trained: TrainedModel, evaluation: Evaluation, description: Model, path: Path) -> None:
    """Write the MLflow model to the new directory `path`; `description` ties it to its run."""
    import mlflow.pyfunc

    shape = json.loads((trained.model / "model.json").read_text())
    code = model_code(shape.get("plugins", ()))
    # MLflow warns of a `predict` without type hints, from which it would guess the signature given here.
    with tempfile.TemporaryDirectory() as staging, warnings.catch_warnings(record=True):
        for name, source in code.files.items():
            target = Path(staging) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        competing = Path(staging) / "evaluation"
        evaluation.write(competing)
        artifacts = parts(trained) | {file.stem: file for file in competing.iterdir()}
        mlflow.pyfunc.save_model(
            path,
            mlflow_model=description,
            python_model=str(code.files[f"seqgen/serving/{CODE}"]),
            artifacts={key: str(part) for key, part in artifacts.items()},
            code_paths=sorted(str(package) for package in Path(staging).iterdir() if package != competing),
            pip_requirements=requirements(code.foreign),
            signature=_signature(shape),
            input_example=_example(shape),
        )
    # MLflow notes where each file came from: a path of this machine, of which nothing reads more than the name
    flavor = description.flavors["python_function"]
    flavor["model_code_path"] = CODE
    for entry in flavor["artifacts"].values():
        entry["uri"] = entry["path"]
    description.save(str(path / "MLmodel"))
    write_bytes(path / CARD, model_card(trained, evaluation).encode())


def model_code(plugins: Collection[str]) -> SourceFiles:
    """What the model is loaded with: files of this project, and of plugins that no package index has.

    A plugin that an index has is foreign: it comes with the requirements.
    """
    installable = {plugin for plugin in plugins if any(map(_on_an_index, _distributions([plugin])))}
    brought = (plugin for plugin in plugins if plugin not in installable)
    code = source_files(*SHIPPED, *brought, without=NOT_SHIPPED)
    return code._replace(foreign=code.foreign | installable)


def requirements(modules: Iterable[str]) -> list[str]:
    """The packages that `modules` are from, pinned to what is installed (without a local build's suffix)."""
    return sorted(
        (f"{name}=={version(name).partition('+')[0]}" for name in _distributions(modules)), key=str.lower
    )


def _distributions(modules: Iterable[str]) -> set[str]:
    """The installed ones that the modules' packages are from; of several with one package that of its name."""
    providers = packages_distributions()
    found = set()
    for package in {module.partition(".")[0] for module in modules}:
        names = set(providers.get(package, ()))
        found |= names & {package} or names
    return found


def _on_an_index(name: str) -> bool:
    """Whether it was installed by its name, and can be where there is no seqgen, which no index has."""
    found = distribution(name)
    needs = {re.split(r"[^\w.-]", requirement)[0] for requirement in found.requires or ()}
    return found.read_text("direct_url.json") is None and "seqgen" not in needs


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
