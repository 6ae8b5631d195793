"""A trained model from a directory or an MLflow registry, without running anything stored with it."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from seqgen.core.errors import BadInput, OperationalError, SeqgenError, one_line
from seqgen.core.files import file_sha256
from seqgen.models import SequentialModel, load_model
from seqgen.models.files import DESCRIPTION, WEIGHTS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel
    from mlflow.exceptions import MlflowException

Found = TypeVar("Found")
MODEL_PART = "artifacts/model"  # where a registered version keeps the two files of `save_model`
WEIGHTS_TAG = "seqgen.weights_sha256"
DESCRIPTION_TAG = "seqgen.model_json_sha256"
MANIFEST_TAG = "seqgen.manifest_digest"
CODE = "pyfunc.py"  # what MLflow runs of a version, beside MLmodel
ADDED = "registered_model_meta"  # MLflow writes it beside what it fetches
_LOADER = "mlflow.pyfunc.loaders.code_model"  # MLflow's own for a model that is code
_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


def load(where: str | Path) -> SequentialModel:
    """The model in a directory, or that of `models:/<name>@<alias>` or `models:/<name>/<version>`.

    The registry is the one MLFLOW_TRACKING_URI names, else the SQLite file mlflow.db of the working
    directory. Only safetensors and JSON are read, and their sha256 is checked, for a registered version
    against the registry's own record. Returned in evaluation mode on the CPU. Raises BadInput if there is no
    such model, it is not one of ours or the login is refused, OperationalError if it was altered or cannot be fetched.
    """
    if not str(where).startswith("models:"):
        return load_model(Path(where))
    from mlflow import MlflowClient

    client = MlflowClient()
    with tempfile.TemporaryDirectory() as directory:
        return load_model(fetch_model(client, find_version(client, str(where)), Path(directory)))


def find_version(client: MlflowClient, uri: str) -> ModelVersion:
    """The version `uri` names.

    Raises BadInput that lists what there is, or for a login that is refused, OperationalError for the server.
    """
    from mlflow.exceptions import MlflowException

    match = _URI.fullmatch(uri)
    if match is None:
        raise BadInput(f"{uri}: write models:/<name>@<alias> or models:/<name>/<version>")
    name, alias, number = match["name"], match["alias"], match["version"]
    try:
        if alias:
            version = found(lambda: client.get_model_version_by_alias(name, alias))
        else:
            version = found(lambda: client.get_model_version(name, number))
        there = "" if version else _what_there_is(client, name)
    except MlflowException as error:
        raise _refused(uri, error) from None
    if version is None:
        raise BadInput(f"{uri}: {there}")
    return version


def found(ask: Callable[[], Found]) -> Found | None:
    """What MLflow's server answers, None if it says that there is no such model, alias, number or run.

    Raises its other errors.
    """
    from mlflow.exceptions import MlflowException

    try:
        return ask()
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _refused(uri: str, error: MlflowException) -> SeqgenError:
    """An error of the registry as ours: BadInput for a login that is refused, else OperationalError."""
    if error.get_http_status_code() in (401, 403):
        return BadInput(
            f"{uri}: the registry refuses us ({one_line(error)}); set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to a login that may read the model"
        )
    return OperationalError(f"{uri}: the registry does not serve us: {one_line(error)}")


def known_model(client: MlflowClient, name: str) -> RegisteredModel:
    """The registered model of that name. Raises BadInput that lists those there are."""
    models = {model.name: model for model in known_models(client)}
    if name not in models:
        known = f"no such model; known: {', '.join(sorted(models))}" if models else "the registry is empty"
        raise BadInput(f"{name}: {known}")
    return models[name]


def known_models(client: MlflowClient) -> Iterator[RegisteredModel]:
    """Every registered model, by name."""
    token: str | None = ""
    while token is not None:
        page = client.search_registered_models(order_by=["name ASC"], page_token=token or None)
        yield from page
        token = page.token or None


def _what_there_is(client: MlflowClient, name: str) -> str:
    model = known_model(client, name)
    aliases = ", ".join(f"@{alias} = {version}" for alias, version in sorted(model.aliases.items()))
    versions = sorted(int(version.version) for version in client.search_model_versions(f"name='{name}'"))
    return f"no such version; versions {', '.join(map(str, versions)) or 'none'}; aliases {aliases or 'none'}"


def fetch_model(client: MlflowClient, version: ModelVersion, into: Path) -> Path:
    """Download the two model files of `version` and compare them with the registry's sha256; their directory.

    Raises BadInput if it is not a version of ours (what MLmodel would have MLflow run is looked at, too),
    OperationalError if files are gone or altered.
    """
    title = title_of_ours(version)
    check_description(title, fetch_part(client, version, "MLmodel", into))
    return check_model(version, fetch_part(client, version, MODEL_PART, into))


def title_of_ours(version: ModelVersion) -> str:
    """The URI of a version that seqgen registered. Raises BadInput for another's."""
    title = f"models:/{version.name}/{version.version}"
    if WEIGHTS_TAG not in version.tags:
        raise BadInput(f"{title}: not registered by seqgen (no tag {WEIGHTS_TAG}); nothing of it was loaded")
    return title


def check_description(title: str, path: Path) -> None:
    """Raise BadInput unless the MLmodel at `path` describes a model as seqgen registers them.

    That is one whose loader is MLflow's own for code, and whose files lie in its own folder: `loader_module` is a
    module that MLflow imports, and a path with `..` in it leads out of what was downloaded.
    """
    from mlflow.models import Model

    try:
        flavors = Model.load(str(path)).flavors
        described = flavors["python_function"]
        loader, code = described["loader_module"], described["model_code_path"]
        paths = [entry["path"] for entry in described["artifacts"].values()] + [described["code"]]
    except Exception as error:  # YAML, MLflow, keys: whatever is written there
        raise BadInput(f"{title}: MLmodel is not seqgen's ({one_line(error)}); nothing was loaded") from None
    if set(flavors) != {"python_function"} or loader != _LOADER or PurePosixPath(code).name != CODE:
        raise BadInput(
            f"{title}: MLmodel would be loaded by {loader} from {code}, flavours {', '.join(sorted(flavors))}; "
            "nothing was loaded"
        )
    for part in map(PurePosixPath, paths):
        if part.is_absolute() or ".." in part.parts:
            raise BadInput(f"{title}: MLmodel names the path {part} outside the version; nothing was loaded")


def check_model(version: ModelVersion, directory: Path) -> Path:
    """`directory`, if it has the two files of `save_model` and the registry their sha256. Raises as `fetch_model`."""
    title = f"models:/{version.name}/{version.version}"
    unexpected = {path.name for path in directory.rglob("*")} - {DESCRIPTION, WEIGHTS}
    if unexpected:
        raise BadInput(f"{title}: {sorted(unexpected)[0]} beside the model's files; nothing of it was loaded")
    description = directory / DESCRIPTION
    try:
        weights, shape = json.loads(description.read_text())["sha256"], file_sha256(description)
    except (OSError, ValueError, KeyError, TypeError):
        weights = shape = None
    # versions of before this tag have that of the weights alone
    if weights != version.tags.get(WEIGHTS_TAG) or shape != version.tags.get(DESCRIPTION_TAG, shape):
        raise OperationalError(f"{title}: altered since it was registered (sha256 is not the registry's)")
    return directory


def fetch_part(client: MlflowClient, version: ModelVersion, part: str, into: Path) -> Path:
    """Download a file or directory of a registered version into `into`. Raises OperationalError."""
    import mlflow.artifacts

    uri = f"models:/{version.name}/{version.version}/{part}"
    try:
        found = Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=uri,
                dst_path=str(into),
                tracking_uri=client.tracking_uri,
                registry_uri=client.tracking_uri,
            )
        )
    except Exception as error:  # each kind of artifact store raises its own
        raise OperationalError(f"{uri}: cannot be fetched: {one_line(error)}") from None
    if found.is_dir() and {path.name for path in found.iterdir()} <= {ADDED}:
        # MLflow gives an empty folder
        raise OperationalError(f"{uri}: cannot be fetched: its files are gone")
    return found
