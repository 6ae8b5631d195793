"""The weights a training starts from, where its recipe asks for the champion's."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipelines.artifacts.places import places
from pipelines.registry import versions
from pipelines.tracking import runs
from seqgen.core.errors import OperationalError
from seqgen.core.files import directory_writer
from seqgen.data.manifest import Manifest
from seqgen.serving.loading import fetch_model
from seqgen.settings import Recipe

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


class Start(NamedTuple):
    """directory: what `load_model` reads, where the workers can; version: its URI; weights: their sha256."""

    directory: Path
    version: str
    weights: str


def starting_weights(recipe: Recipe, manifest: Manifest) -> Start | None:
    """The champion's model in artifacts/<recipe>/initial, if `train.initial` asks for it.

    None, and it is said why, if there is none or it is of other settings: the training starts at random. Raises
    OperationalError if the registry does not answer or the champion is damaged.
    """
    if recipe.train.initial != "champion":
        return None
    client, name = runs.connect(), recipe.register_.name
    try:
        champion = versions.by_alias(client, name, versions.CHAMPION)
    except runs.server_errors() as error:
        raise runs.failure(client.tracking_uri, error) from None
    if champion is None:
        print(f"train.initial=champion: {name} has none yet; starts at random")
        return None
    uri = f"models:/{name}/{champion.version}"
    try:
        start = _fetch(recipe, champion, uri)
    except OperationalError as error:
        raise OperationalError(
            f"{error}; roll back (`seqgen models rollback {name}`), or train with --set train.initial=random"
        ) from error
    theirs = json.loads((start.directory / "model.json").read_text())
    wanted = (json.loads(recipe.model.model_dump_json()), manifest.height, manifest.width)
    if (theirs["config"], theirs["height"], theirs["width"]) != wanted:
        print(f"train.initial=champion: {uri} has other model settings; starts at random")
        return None
    print(f"starts from the weights of {uri}")
    return start


def _fetch(recipe: Recipe, champion: ModelVersion, uri: str) -> Start:
    target = places(recipe).initial
    with tempfile.TemporaryDirectory() as directory, directory_writer(target) as fresh:
        for path in fetch_model(runs.connect(), champion, Path(directory)).iterdir():
            shutil.copyfile(path, fresh / path.name)
        weights = json.loads((fresh / "model.json").read_text())["sha256"]
    return Start(target, uri, weights)
