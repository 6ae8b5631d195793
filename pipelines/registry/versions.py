"""The model registry: versions, and the aliases `candidate` (the newest) and `champion` (the one in use)."""

from __future__ import annotations

import os
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.artifacts.trained_model import TrainedModel
from pipelines.registry.evaluation import Evaluation
from pipelines.registry.package import save_package
from pipelines.tracking import lineage
from seqgen.core.errors import BadInput, one_line
from seqgen.core.files import canonical_digest
from seqgen.core.locks import held
from seqgen.serving.loading import WEIGHTS_TAG, fetch_model, fetch_part

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CANDIDATE, CHAMPION = "candidate", "champion"


def by_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The version that holds `alias`, or None. Raises MLflow's errors of the server."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None  # no such model; no such alias
        raise


def add_version(client: MlflowClient, trained: TrainedModel, evaluation: Evaluation) -> ModelVersion:
    """Log the trained model to its run and register it as the newest version, alias `candidate`.

    The version takes over the run's lineage tags and the training's `lineage.request_digest`. Registered
    again, the same model with the same evaluation is the same version.
    """
    from mlflow.exceptions import MlflowException

    name, run_id = trained.recipe.register_.name, trained.run["run_id"]
    request = trained.run.get("request_digest", "unknown")
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise BadInput(
            f"run {run_id} of the training is not on this server ({one_line(error)}); "
            "set MLFLOW_TRACKING_URI to the one it was trained with, or train again"
        ) from None
    tags = {key: value for key, value in run.data.tags.items() if key.startswith(lineage.PREFIX)}
    tags |= {
        WEIGHTS_TAG: trained.weights,
        "seqgen.request_digest": lineage.request_digest(trained.recipe, request),
        "seqgen.evaluation_digest": canonical_digest(evaluation.data),
        "seqgen.bound": repr(evaluation.mean),
    }
    _create_model(client, name)
    for version in client.search_model_versions(f"name='{name}'"):
        if version.run_id == run_id and tags.items() <= version.tags.items():
            break
    else:
        model_id = _log_model(client, trained, run.info.experiment_id)
        source = f"models:/{model_id}"
        version = client.create_model_version(name, source, run_id, tags=tags, model_id=model_id)
    client.set_registered_model_alias(name, CANDIDATE, version.version)
    return version


def _create_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _log_model(client: MlflowClient, trained: TrainedModel, experiment: str) -> str:
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    run_id = trained.run["run_id"]
    logged = client.create_logged_model(experiment, "model", source_run_id=run_id, model_type="seqgen")
    description = Model(
        artifact_path=logged.artifact_location,
        model_uuid=logged.model_id,
        model_id=logged.model_id,
        run_id=run_id,
    )
    try:
        with tempfile.TemporaryDirectory() as directory:
            save_package(trained, description, Path(directory) / "model")
            client.log_model_artifacts(logged.model_id, f"{directory}/model")
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, trained.run["steps"])])
    return logged.model_id


def verify(client: MlflowClient, version: ModelVersion) -> None:
    """Fetch the version's model and load it, as a user will. Raises OperationalError or BadInput."""
    from seqgen.models import load_model

    with tempfile.TemporaryDirectory() as directory:
        load_model(fetch_model(client, version, Path(directory)))


def fetch_evaluation(client: MlflowClient, version: ModelVersion) -> Evaluation:
    """The held-out bounds the version was registered with. Raises OperationalError if they are gone."""
    with tempfile.TemporaryDirectory() as directory:
        parts = [
            fetch_part(client, version, f"artifacts/{part}", Path(directory))
            for part in ("evaluation.json", "bounds.npy")
        ]
        return Evaluation.read(parts[0].parent)


def lock(client: MlflowClient, name: str) -> AbstractContextManager[int]:
    """Hold this to move the aliases of model `name`: this machine's processes of one user take turns.

    Raises OperationalError after ten minutes.
    """
    return held(lock_path(client.tracking_uri, name), timeout=600)


def lock_path(uri: str, name: str) -> Path:
    """Beside a SQLite file; for a server in `~/.cache/seqgen`, which is ours alone, or where no home can be written in
    the temporary directory."""
    if uri.startswith("sqlite:///"):
        return Path(uri.removeprefix("sqlite:///")).with_name(".seqgen") / f"registry-{name}.lock"
    key = canonical_digest([uri, name, os.getuid()])[:16]
    return _own_directory() / f"seqgen-registry-{key}.lock"


def _own_directory() -> Path:
    try:
        directory = Path.home() / ".cache" / "seqgen"
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return Path(tempfile.gettempdir())
    return directory if os.access(directory, os.W_OK) else Path(tempfile.gettempdir())


def set_tags(client: MlflowClient, version: ModelVersion, tags: dict[str, str]) -> None:
    """Set several tags of a version."""
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, key, value)


def move_champion(
    client: MlflowClient, version: ModelVersion, expected: ModelVersion | None, reason: str
) -> bool:
    """Give `version` the alias `champion` if `expected` still holds it; returns whether it was moved.

    The new version is verified first and gets the tag `previous_champion`, by which a rollback finds its way,
    before the alias moves: interrupted at any point, the registry has one valid champion. Call under `lock`.
    """
    verify(client, version)
    holder = by_alias(client, version.name, CHAMPION)
    if (holder and holder.version) != (expected and expected.version):
        return False
    set_tags(client, version, {"previous_champion": expected.version if expected else "none"})
    client.set_registered_model_alias(version.name, CHAMPION, version.version)
    set_tags(client, version, {"promotion": "promoted", "promotion_reason": reason})
    if expected:
        set_tags(client, expected, {"promotion": "replaced", "replaced_by": version.version})
    return True
