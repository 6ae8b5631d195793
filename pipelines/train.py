"""Train the recipe's model with Ray, or go on with its run."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Annotated, Literal

import typer

from pipelines.artifacts.history import FILE_NAME
from pipelines.artifacts.places import places
from pipelines.artifacts.search_result import load_searched
from pipelines.artifacts.shards import checked_manifest, shards_of, skip_bad_shards
from pipelines.artifacts.trained_model import write_trained_model
from pipelines.cli.again import again
from pipelines.cli.command import BadShardOption, RecipeOption, SetOption, run
from pipelines.cli.signals import raise_on_stop
from pipelines.cluster.connect import connected, elsewhere
from pipelines.cluster.ending import ended, goes_on
from pipelines.cluster.patience import Patience
from pipelines.cluster.room import check_room
from pipelines.cluster.storage import RunStorage
from pipelines.recipes import load_recipe
from pipelines.storage.lease import Lost
from pipelines.tracking import lineage
from seqgen.core.errors import BadInput, OperationalError, StoppedEarly
from seqgen.core.files import canonical_digest
from seqgen.data.manifest import Manifest
from seqgen.settings import Recipe, flatten

Device = Literal["auto", "cpu", "cuda"]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Same as --set train.workers=N.")]
DeviceOption = Annotated[Device, typer.Option("--device", help="auto: GPUs if every worker can have one.")]
NameOption = Annotated[
    str | None,
    typer.Option("--name", help="The run's name, instead of one made of its settings, data and code."),
]
FreshOption = Annotated[
    bool, typer.Option("--force-new", help="Start anew, also where a run of these settings could go on.")
]
ProfileOption = Annotated[
    bool,
    typer.Option("--profile", help="Say in which operations the time of ten steps goes, and keep the trace."),
]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def train(
    recipe: RecipeOption = None,
    settings: SetOption = None,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    name: NameOption = None,
    force_new: FreshOption = False,
    on_bad_shard: BadShardOption = "refuse",
    profile: ProfileOption = False,
) -> None:
    """Train the recipe's model on N workers. If interrupted, the same command goes on with the run."""
    raise_on_stop()
    if name is not None and not _NAME.fullmatch(name):
        raise BadInput(f"--name {name!r}: use up to 100 letters, digits, dots, dashes and underscores")
    assignments = [*(settings or ()), *([f"train.workers={workers}"] if workers else ())]
    request = lineage.training_request(load_recipe(recipe, assignments))
    if on_bad_shard == "skip":
        skip_bad_shards(places(load_recipe(recipe, assignments)).shards)
    train_recipe(load_searched(recipe, assignments), device, request, name, force_new, profile)


def train_recipe(
    recipe: Recipe,
    device: Device,
    request: str,
    name: str | None = None,
    fresh: bool = False,
    profile: bool = False,
) -> None:
    """Train `recipe` and write artifacts/<recipe>/train; `request` is the digest of what was asked for.

    A run of more epochs, or of more patience, goes on with a finished one that differs in nothing else, unless it
    shall be `fresh`.
    Raises BadInput before anything starts, NumericalError, OperationalError (also when the restarts are used
    up), StoppedEarly on SIGTERM or Ctrl-C.
    """
    patience, manifest = Patience.of_environment(), checked_manifest(recipe)

    from pipelines.cluster.driver import run_workers
    from pipelines.registry.warm_start import starting_weights
    from pipelines.tracking import runs
    from pipelines.tracking.tracked_run import epoch_log, tracked_run
    from seqgen.training.memory import checkpoint_bytes
    from seqgen.training.resources import device_for, this_machine

    if not elsewhere():
        device_for(recipe, this_machine(), device)
    check_room(checkpoint_bytes(recipe), recipe.train.keep_checkpoints + 1)  # and the best one
    digests = {"manifest digest": manifest.digest, "code digest": lineage.code_digest(recipe)}
    runs.check()
    start = starting_weights(recipe, manifest)
    with (
        RunStorage.claim(
            name or run_name(recipe, manifest, start.weights if start else ""),
            flatten(recipe.kept()) | digests,
            lambda mark: goes_on(mark, recipe.train),
            fresh,
        ) as storage,
        _how_to_go_on(),
    ):
        storage.store.preflight(creates=storage.lease is not None)
        _show(recipe, storage)
        with connected() as resources:
            chosen = device_for(recipe, resources, device)
            with tracked_run(recipe, manifest, storage) as run_id, epoch_log(run_id) as log_epoch:
                result = run_workers(
                    recipe,
                    str(shards_of(recipe)),
                    digests,
                    storage,
                    chosen,
                    patience,
                    log_epoch,
                    start.directory if start else None,
                    profile,
                )
                for row in result.history:  # what was not heard of; what was, is not sent twice
                    log_epoch(row)
                about = {
                    "run_id": run_id,
                    "run_name": storage.name,
                    "tracking_uri": runs.redact(runs.tracking_uri()),
                    "request_digest": request,
                    "initial": start.version if start else "random",
                    **result.summary(),
                }
                with result.checkpoints.fetched(result.step) as best:
                    target = write_trained_model(
                        recipe, manifest, best, result.history, result.gallery, about
                    )
                for file in ("recipe.json", FILE_NAME):
                    runs.attach(run_id, target / file, "train")
        # At the very end: what is stopped before it goes on.
        storage.complete(ended(int(result.history[-1]["epoch"]), recipe.train))
    print(f"model in {target / 'model'}, run {run_id}")


def run_name(recipe: Recipe, manifest: Manifest, initial: str = "") -> str:
    """The name of the run of these settings, data, learning code and initial weights (their digest; "": random).

    Workers and epochs are no part of it.
    """
    made_of = [recipe.run_digest(), manifest.digest, lineage.code_digest(recipe)]
    digest = canonical_digest([*made_of, initial] if initial else made_of)
    return f"{recipe.name}-{digest[:10]}"


def _show(recipe: Recipe, storage: RunStorage) -> None:
    print(f"run {storage.name}" + (" goes on" if storage.state() else ""))
    for key, value in flatten(recipe.model_dump(mode="json", include={"data", "model", "train"})).items():
        print(f"  {key} = {value}")
    sys.stdout.flush()


@contextlib.contextmanager
def _how_to_go_on() -> Iterator[None]:
    """Say in an error that leaves the run unfinished what command goes on with it."""
    try:
        yield
    except Lost:  # it goes on elsewhere
        raise
    except StoppedEarly as stopped:
        raise StoppedEarly(f"{stopped}. Go on with: {again()}") from None
    except OperationalError as error:
        raise OperationalError(f"{error}. Go on with: {again()}") from error


if __name__ == "__main__":
    run(train)
