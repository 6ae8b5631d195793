"""Train the recipe's model with Ray Train on one or more workers; an interrupted run goes on where it was."""

from __future__ import annotations

import json
import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipelines.artifacts.history import FILE_NAME, Row, read_history, write_history
from pipelines.artifacts.places import places
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.signals import raise_on_stop
from pipelines.cluster.connect import Device, connected, elsewhere, this_machine
from pipelines.cluster.storage import RunStorage, state_root, storage_root
from pipelines.cluster.worker import SCORE
from pipelines.recipes import load_recipe
from pipelines.tracking import lineage
from seqgen.core.errors import BadInput, NumericalError, OperationalError, StoppedEarly
from seqgen.core.files import canonical_digest, directory_writer, write_json
from seqgen.data.manifest import Manifest, check_shard_bytes, read_manifest
from seqgen.settings import Recipe, flatten

if TYPE_CHECKING:
    from ray.train.v2.api.result import Result

WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Same as --set train.workers=N.")]
DeviceOption = Annotated[Device, typer.Option("--device", help="auto: GPUs if every worker can have one.")]


def train(
    recipe: RecipeOption = None,
    settings: SetOption = None,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Train the recipe's model on N workers. If interrupted, the same command goes on with the run."""
    assignments = [*(settings or ()), *([f"train.workers={workers}"] if workers else ())]
    request = lineage.training_request(load_recipe(recipe, assignments))
    again = shlex.join(["python", *sys.orig_argv[1:]])
    train_recipe(with_search(recipe, assignments), device, again=again, request=request)


def with_search(name: str | None, assignments: list[str]) -> Recipe:
    """The recipe with what its search found, if it has run; `assignments` win over it.

    Raises BadInput if what it found are not the settings that the recipe's space varies.
    """
    recipe = load_recipe(name, assignments)
    path = places(recipe).search / "best.json"
    if recipe.search is None or not path.is_file():
        return recipe
    try:
        found = dict(json.loads(path.read_text())["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path}: not the result of a search ({error}); "
            f"run `python -m pipelines.tune --recipe {name or recipe.name}`"
        ) from error
    if found.keys() != recipe.search.space.keys():
        raise BadInput(
            f"{path}: the search was made for another space ({', '.join(found) or 'none'}); run "
            f"`python -m pipelines.tune --recipe {name or recipe.name}`"
        )
    if found:
        print(f"found by the search ({path}): " + "  ".join(f"{key}={value}" for key, value in found.items()))
    return load_recipe(name, assignments, found=found)


def train_recipe(
    recipe: Recipe, device: Device = "auto", again: str = "", request: str | None = None
) -> Path:
    """Train `recipe` and return the directory of its products; `again` is the command that goes on with it,
    `request` the digest of the recipe before a search filled it in (default: it is as asked for).

    Raises BadInput before anything starts, NumericalError, OperationalError (also when the restarts are used
    up), StoppedEarly on SIGTERM or Ctrl-C.
    """
    from filelock import FileLock, Timeout

    from pipelines.tracking import runs

    raise_on_stop()
    manifest = check(recipe)
    if not elsewhere():
        this_machine().check(recipe, device)
    storage = RunStorage.next(storage_root(), run_name(recipe, manifest))
    locks = state_root() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(locks / f"train-{storage.name}.lock", timeout=0):
            runs.connect()
            _show(recipe, storage)
            with connected() as cluster:
                chosen = cluster.check(recipe, device)
                _hint(chosen)
                return _tracked(
                    recipe, manifest, storage, chosen, request or lineage.training_request(recipe)
                )
    except Timeout:
        raise BadInput(f"run {storage.name} is being trained by another process; wait for it") from None
    except StoppedEarly as stopped:
        raise StoppedEarly(f"{stopped}; the epochs with a checkpoint are kept. Go on with: {again}") from None
    except OperationalError as error:
        raise OperationalError(f"{error}. Go on with: {again}") from error


def check(recipe: Recipe) -> Manifest:
    """The manifest of the recipe's shards, checked against the recipe and against the files.

    Raises BadInput (absent, or made with other settings), OperationalError (damaged).
    """
    directory, again = places(recipe).shards, f"python -m pipelines.shard --recipe {recipe.name}"
    manifest = read_manifest(directory)
    size = recipe.data.size
    if manifest.data != recipe.data or (manifest.height, manifest.width) != (size, size):
        raise BadInput(f"{directory}: shards of other data settings; run `{again}`")
    for split in ("train", "valid"):
        if split not in manifest.splits:
            raise BadInput(f"{directory}: no split {split}; run `{again}`")
        for shard in manifest.splits[split].shards:
            check_shard_bytes(directory, shard)
    images = manifest.splits["train"].images
    if recipe.train.batch > images:
        raise BadInput(f"train.batch={recipe.train.batch} exceeds the {images} training images: choose less")
    return manifest


def run_name(recipe: Recipe, manifest: Manifest) -> str:
    """The name of the run of these settings, data and learning code; the number of workers is no part of it."""
    digest = canonical_digest([recipe.digest(), manifest.digest, lineage.code_digest()])
    return f"{recipe.name}-{digest[:10]}"


def _hint(device: str) -> None:
    """On a CPU without the kernels: how to have them."""
    from seqgen import native

    if device == "cpu" and not native.built():
        print(
            "the native kernels are not built here: `python -m seqgen.native` makes training on a CPU faster"
        )


def _show(recipe: Recipe, storage: RunStorage) -> None:
    print(f"run {storage.name}" + (" goes on" if storage.state() else ""))
    for key, value in flatten(recipe.model_dump(mode="json", include={"data", "model", "train"})).items():
        print(f"  {key} = {value}")
    sys.stdout.flush()


def _tracked(
    recipe: Recipe, manifest: Manifest, storage: RunStorage, device: Literal["cpu", "cuda"], request: str
) -> Path:
    """Train within one MLflow run, whose last status tells how it ended."""
    from pipelines.cluster.driver import run_workers
    from pipelines.tracking import runs

    uri = runs.tracking_uri()
    run_id = runs.open_run(recipe, manifest, run_id=storage.state().get("run_id"), name=storage.name)
    status: runs.Status = "FAILED"
    log = runs.MetricLog(uri, run_id)

    def on_row(row: Row) -> None:
        log.log({key: value for key, value in row.items() if key not in ("epoch", "step")}, int(row["step"]))

    try:
        storage.keep({"run_id": run_id})
        digests = {
            "manifest digest": manifest.digest,
            "code digest": lineage.code_digest(),
        }
        result = run_workers(recipe, places(recipe).shards, digests, storage, device, on_row)
        target = _write_products(recipe, manifest, storage, run_id, request, result)
        for row in read_history(target / FILE_NAME):  # what was not heard of; what was, is not sent twice
            on_row(row)
        storage.complete()
        status = "FINISHED"
    except StoppedEarly:
        status = "KILLED"
        raise
    finally:
        log.close(timeout=5 if status == "KILLED" else 30)  # who stops us may not wait long
        runs.close_run(run_id, status)
    for name in ("recipe.json", FILE_NAME):
        runs.attach(run_id, target / name, "train")
    return target


def _write_products(
    recipe: Recipe, manifest: Manifest, storage: RunStorage, run_id: str, request: str, result: Result
) -> Path:
    """Write `artifacts/<recipe>/train`, whole or not at all; the weights are those of the best epoch."""
    from pipelines.tracking import runs
    from seqgen.models import build, save_model
    from seqgen.training.checkpoint import load_average

    if not result.best_checkpoints or result.checkpoint is None:
        raise OperationalError(f"run {storage.name} ended without a checkpoint in {storage.root}")
    finite = [pair for pair in result.best_checkpoints if math.isfinite(pair[1][SCORE])]
    if not finite:
        raise NumericalError(
            f"run {storage.name}: no checkpoint has a finite held-out bound; try a lower train.learning_rate"
        )
    best, metrics = min(finite, key=lambda pair: (pair[1][SCORE], -pair[1]["epoch"]))
    target = places(recipe).train
    model = build(recipe.model, manifest.height, manifest.width, manifest.mean)
    with best.as_directory() as directory:
        load_average(Path(directory), model)
    with result.checkpoint.as_directory() as directory:
        rows = read_history(Path(directory) / FILE_NAME)
    summary = {
        "run_id": run_id,
        "run_name": storage.name,
        "tracking_uri": runs.redact(runs.tracking_uri()),
        "checkpoint": best.path,
        "best_epoch": metrics["epoch"],
        "best_bound": metrics[SCORE],
        "epochs": rows[-1]["epoch"],
        "steps": rows[-1]["step"],
        "settings_digest": recipe.digest(),
        "request_digest": request,
        "manifest_digest": manifest.digest,
    }
    with directory_writer(target) as fresh:
        save_model(model, fresh / "model")
        write_history(fresh / FILE_NAME, rows)
        write_json(fresh / "recipe.json", recipe.model_dump(mode="json", by_alias=True))
        write_json(fresh / "run.json", summary)
    print(f"best of {rows[-1]['epoch']} epochs: {metrics['epoch']}, held-out bound {metrics[SCORE]:.2f} nats")
    print(f"model in {target / 'model'}, run {run_id}")
    return target


if __name__ == "__main__":
    run(train)
