"""What the train stage leaves: the settings that were trained, the run, the model; for the verbs after it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.artifacts import gallery
from pipelines.artifacts.gallery import Gallery
from pipelines.artifacts.history import FILE_NAME, Row, read_history, write_history
from pipelines.artifacts.places import Places, places
from pipelines.artifacts.shards import shards_of
from pipelines.recipes import load_recipe
from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import directory_writer, file_sha256, write_json
from seqgen.data.manifest import FILE_NAME as MANIFEST
from seqgen.data.manifest import Manifest, Place, read_manifest
from seqgen.settings import Recipe, build_recipe, flatten, parse_assignment

if TYPE_CHECKING:
    from seqgen.models import SequentialModel

_LATER = ("evaluate.", "register.")
_WEIGHTS = "weights.safetensors"  # that of seqgen.models.files, which imports torch


@dataclass(frozen=True)
class TrainedModel:
    """`recipe` has the data, model and training as trained, and evaluation and registry as asked for now.

    weights: the sha256 of the trained weights as they were when this was read: an evaluation says by it whose it is.
    """

    recipe: Recipe
    run: dict[str, Any]
    places: Places
    weights: str
    asked: tuple[str, ...] = ()  # the recipe and the settings it was asked for by, as on a command line

    @property
    def model(self) -> Path:
        """The directory `load_model` reads."""
        return self.places.train / "model"

    def load(self) -> SequentialModel:
        """The model of these weights, on the CPU. Raises as `load_model`, and as `check_weights`."""
        from seqgen.models import load_model

        model = load_model(self.model)
        self.check_weights()
        return model

    def check_weights(self) -> None:
        """Raise OperationalError if what is there now was trained after this was read."""
        path = self.model / _WEIGHTS
        if not path.is_file() or file_sha256(path) != self.weights:
            raise OperationalError(f"{self.model}: trained anew meanwhile; evaluate and register again")

    @property
    def seconds(self) -> float:
        """How long it was trained."""
        return math.fsum(row.get("seconds", 0.0) for row in read_history(self.places.train / FILE_NAME))

    @property
    def shards(self) -> Place:
        """Where the shards are read from."""
        return shards_of(self.recipe)

    @property
    def manifest_file(self) -> Path:
        """The manifest of what it was trained on; where training kept none, that of the shards."""
        kept = self.places.train / MANIFEST
        return kept if kept.is_file() else self.places.shards / MANIFEST

    def manifest(self) -> Manifest:
        """The manifest of the shards, which must be those that were trained on. Raises BadInput."""
        manifest = read_manifest(self.shards)
        before = self.run["manifest_digest"]
        if manifest.digest != before:
            raise BadInput(
                f"{self.shards}: not the shards the model was trained on (manifest "
                f"{manifest.digest[:12]}, then {before[:12]}); "
                f"run `seqgen train --recipe {self.recipe.name}`"
            )
        return manifest


def write_trained_model(
    recipe: Recipe,
    manifest: Manifest,
    checkpoint: Path,
    history: list[Row],
    drawn: Gallery,
    about: Mapping[str, Any],
) -> Path:
    """Write artifacts/<recipe>/train, whole or not at all, and return it.

    The model has the averaged weights of the directory `checkpoint`; `about` is what run.json says of the run.
    """
    from seqgen.models import build, save_model
    from seqgen.training.checkpoint import load_average

    model = build(recipe.model, manifest.height, manifest.width, manifest.mean)
    load_average(checkpoint, model)
    target = places(recipe).train
    with directory_writer(target) as fresh:
        save_model(model, fresh / "model")
        write_history(fresh / FILE_NAME, history)
        drawn.write(fresh / gallery.FILE_NAME)
        write_json(fresh / MANIFEST, manifest.model_dump(mode="json"))
        write_json(fresh / "recipe.json", recipe.model_dump(mode="json", by_alias=True))
        digests = {"settings_digest": recipe.digest(), "manifest_digest": manifest.digest}
        write_json(fresh / "run.json", {**about, **digests})
    return target


def load_trained_model(name: str | None, assignments: Iterable[str] = ()) -> TrainedModel:
    """Read artifacts/<recipe>/train. `name` and `assignments` as in `load_recipe`.

    A setting given with --set that differs from what was trained is refused, unless it is one of the
    evaluation's or the registry's. Raises BadInput, also if nothing was trained.
    """
    assignments = list(assignments)
    asked = load_recipe(name, assignments)
    where = places(asked)
    path = where.train / "recipe.json"
    remedy = f"run `seqgen train --recipe {asked.name}`"
    tree, run = _read(path, remedy), _read(where.train / "run.json", remedy)
    recipe = build_recipe(tree, str(path))
    trained = flatten(recipe.model_dump(mode="json", by_alias=True))
    for key, value in map(parse_assignment, assignments):
        if not key.startswith(_LATER) and trained.get(key) != value:
            raise BadInput(
                f"--set {key}={value}: the model was trained with {trained.get(key)}; {remedy} with it"
            )
    later = {"evaluate": asked.evaluate, "register_": asked.register_}
    given = ("--recipe", name or asked.name, *(part for one in assignments for part in ("--set", one)))
    try:
        weights = file_sha256(where.train / "model" / _WEIGHTS)
    except FileNotFoundError as error:
        raise BadInput(f"{error.filename}: missing; {remedy}") from None
    return TrainedModel(recipe.model_copy(update=later), run, where, weights, given)


def load_as_recipe(name: str) -> TrainedModel:
    """`load_trained_model` of a recipe as it is now. Raises BadInput, too, if it was trained with other settings."""
    trained = load_trained_model(name)
    if trained.recipe.digest() != load_recipe(name).digest():
        raise BadInput(
            f"{trained.places.train}: trained with other settings than {name} has now; train and measure again"
        )
    return trained


def _read(path: Path, remedy: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise BadInput(f"{path}: nothing was trained here; {remedy}") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: not readable as JSON ({error}); {remedy}") from None
    if not isinstance(value, dict):
        raise BadInput(f"{path}: not a JSON object; {remedy}")
    return value
