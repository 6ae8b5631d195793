"""The model registry: versions, and the aliases `candidate` (the newest) and `champion` (the one in use)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.artifacts.trained_model import TrainedModel
from pipelines.registry.evaluation import Evaluation
from pipelines.registry.inspection import FILES_TAG, files_digest
from pipelines.registry.package import save_package
from pipelines.registry.turns import turn
from pipelines.tracking import lineage, runs
from seqgen.core.errors import BadInput, OperationalError, one_line
from seqgen.core.files import canonical_digest, file_sha256
from seqgen.models.files import DESCRIPTION
from seqgen.serving.loading import DESCRIPTION_TAG, WEIGHTS_TAG, fetch_part, found

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CANDIDATE, CHAMPION = "candidate", "champion"
BOUNDS_TAG = "seqgen.bounds_sha256"  # of the file it competes with


def by_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The version that holds `alias`, or None. Raises MLflow's errors of the server."""
    return found(lambda: client.get_model_version_by_alias(name, alias))


def by_number(client: MlflowClient, name: str, number: str) -> ModelVersion | None:
    """The version of that number, or None. Raises MLflow's errors of the server."""
    return found(lambda: client.get_model_version(name, number))


def add_version(client: MlflowClient, trained: TrainedModel, evaluation: Evaluation) -> ModelVersion:
    """Log the trained model to its run and register it as the newest version, alias `candidate`.

    If another process has made a newer one candidate meanwhile, that one keeps the alias.
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
        DESCRIPTION_TAG: file_sha256(trained.model / DESCRIPTION),
        "seqgen.request_digest": lineage.request_digest(trained.recipe, request),
        "seqgen.evaluation_digest": canonical_digest(evaluation.data),
    }
    _create_model(client, name)
    for version in client.search_model_versions(f"name='{name}'"):
        if version.run_id == run_id and tags.items() <= version.tags.items():
            again = True
            break
    else:
        again = False
        model_id, digest = _log_model(client, trained, evaluation, run.info.experiment_id)
        source = f"models:/{model_id}"
        tags |= {FILES_TAG: digest, **_bounds(trained, evaluation)}
        version = client.create_model_version(name, source, run_id, tags=tags, model_id=model_id)
    with turn(client, name):  # of two who set an alias at once, the server refuses one
        holder = by_alias(client, name, CANDIDATE)
        if again or holder is None or int(holder.version) < int(version.version):
            client.set_registered_model_alias(name, CANDIDATE, version.version)
    return version


def _bounds(trained: TrainedModel, evaluation: Evaluation) -> dict[str, str]:
    """What the version competes with, and what its run reports: (split, bound in nats)."""
    reported = json.loads((trained.places.evaluate / "evaluation.json").read_text())
    return {
        BOUNDS_TAG: hashlib.sha256(dict(evaluation.arrays())["bounds.npy"]).hexdigest(),
        "seqgen.bound": repr(evaluation.mean),
        "seqgen.bound_split": evaluation.data["split"],
        "seqgen.reported_bound": repr(reported["free_energy"]),
        "seqgen.reported_split": reported["split"],
    }


def _create_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _log_model(
    client: MlflowClient, trained: TrainedModel, evaluation: Evaluation, experiment: str
) -> tuple[str, str]:
    """Upload the package; its id and the digest of its files."""
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
            package = Path(directory) / "model"
            save_package(trained, evaluation, description, package)
            trained.check_weights()  # else files of two trainings are in the package
            digest = files_digest(package)
            client.log_model_artifacts(logged.model_id, str(package))
    except BaseException:
        with contextlib.suppress(*runs.server_errors()):  # what ended it is what is told
            client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, trained.run["steps"])])
    return logged.model_id, digest


def fetch_evaluation(client: MlflowClient, version: ModelVersion) -> Evaluation:
    """The held-out bounds the version was registered with. Raises OperationalError if they are gone or altered."""
    with tempfile.TemporaryDirectory() as directory:

        def fetched(name: str) -> Path:
            return fetch_part(client, version, f"artifacts/{name}", Path(directory))

        about = fetched("evaluation.json")
        digest = file_sha256(fetched("bounds.npy"))
        if version.tags.get(BOUNDS_TAG, digest) != digest:
            raise OperationalError(f"models:/{version.name}/{version.version}: its bounds.npy was altered")
        if b'"clusters": "' in about.read_bytes():
            fetched("clusters.npy")
        return Evaluation.read(about.parent)


def set_tags(client: MlflowClient, version: ModelVersion, tags: dict[str, str]) -> None:
    """Set several tags of a version."""
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, key, value)
