"""Search the settings of search.space with Ray Tune and ASHA; the best ones feed the train stage."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import math
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from data_prep.errors import BadInput, OperationalError, StoppedEarly
from data_prep.files import canonical_digest, write_bytes, write_json
from data_prep.manifest import Manifest
from pipelines.recipe import load_recipe, places
from pipelines.space import checked_recipes, describe, is_grid, trial_count
from pipelines.verb import RecipeOption, SetOption, run
from seqgen.config import Recipe

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from pipelines.ray_cluster import Resources
    from pipelines.storage import RunStorage
    from pipelines.studylog import StudyLog


def tune(recipe: RecipeOption = None, settings: SetOption = None) -> None:
    """Search the settings listed in search.space. Run again, an interrupted search goes on."""
    search(load_recipe(recipe, settings or ()))


def search(recipe: Recipe) -> dict[str, Any]:
    """Run the recipe's search, or go on with it, and write `search/best.json` and `search/trials.csv`.

    Returns best.json: {"settings", "objective" (nats), "metric", "trials", "failed"}; only {"settings": {}}
    where the recipe has no search. Raises BadInput before anything starts, StoppedEarly (run it again to go
    on), OperationalError if no trial gave a bound.
    """
    target = places(recipe).search
    if recipe.search is None:
        print(f"recipe {recipe.name} has no search section: its own settings stand")
        return _write(target, [], {"settings": {}}, ())
    manifest = _check(recipe)
    with _only_one(study_name(recipe, manifest)) as name:
        return _search(recipe, manifest, name, target)


def study_name(recipe: Recipe, manifest: Manifest) -> str:
    """The name of the search: another space, data or code is another study, more minutes are not."""
    from pipelines.lineage import code_digest

    assert recipe.search is not None
    asked = recipe.search.model_dump(mode="json", exclude={"minutes"})
    digest = canonical_digest([recipe.digest(), asked, manifest.digest, code_digest()])
    return f"{recipe.name}-tune-{digest[:12]}"


def _check(recipe: Recipe) -> Manifest:
    """All that can be known before anything starts: space, shards, room for a trial."""
    from pipelines import ray_cluster
    from pipelines.train import check

    assert recipe.search is not None
    recipes = checked_recipes(recipe)
    manifest = check(recipe)
    images = min(recipe.search.train_images or math.inf, manifest.splits["train"].images)
    for trial in recipes:
        if trial.train.batch > images:
            raise BadInput(f"train.batch={trial.train.batch} exceeds the {images} images a trial trains on")
    if not ray_cluster.elsewhere():
        room(recipe, ray_cluster.this_machine())
    return manifest


def room(recipe: Recipe, resources: Resources) -> tuple[int, str]:
    """How many trials run at once, each with all its workers, and on which device.

    Raises BadInput if one trial is too large for the cluster.
    """
    assert recipe.search is not None
    workers = recipe.search.workers
    if workers > resources.cpus:
        where = "this machine" if resources.here else "the Ray cluster"
        raise BadInput(f"search.workers={workers}: {where} has {resources.cpus} CPUs; use at most that many")
    devices = {resources.check(trial, "auto") for trial in checked_recipes(recipe)}
    device = "cuda" if devices == {"cuda"} else "cpu"
    return (resources.gpus if device == "cuda" else resources.cpus) // workers, device


@contextlib.contextmanager
def _only_one(name: str) -> Iterator[str]:
    path = Path(".seqgen/locks") / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            yield name
    except Timeout:
        raise BadInput(
            f"this search is being run by another process (it holds {path}); wait for it"
        ) from None


def _search(recipe: Recipe, manifest: Manifest, name: str, target: Path) -> dict[str, Any]:
    from pipelines import ray_cluster, tracking
    from pipelines.signals import raise_on_stop
    from pipelines.storage import RunStorage, storage_root
    from pipelines.studylog import StudyLog
    from pipelines.trials import objective

    raise_on_stop()
    assert recipe.search is not None
    storage = RunStorage.next(storage_root(), name)
    kept = storage.state()
    log = StudyLog(
        recipe, manifest, storage.name, kept.get("run_id"), objective(recipe), trial_count(recipe.search)
    )
    storage.keep({"run_id": log.run_id})
    status: tracking.Status = "FAILED"
    try:
        with ray_cluster.connected() as resources:
            trials = _run_trials(recipe, storage, log, resources)
        best = _conclude(target, recipe, log, trials)
        storage.complete()
        status = "FINISHED"
        return best
    except (StoppedEarly, KeyboardInterrupt):
        status = "KILLED"
        raise StoppedEarly("search stopped; run the same command again to go on with it") from None
    finally:
        if status == "FINISHED":
            tracking.attach(log.run_id, target, "search")
        tracking.close_run(log.run_id, status)


def _run_trials(recipe: Recipe, storage: RunStorage, log: StudyLog, resources: Resources) -> list[Trial]:
    """Let Tune run the trials, or what is left of them, and return them all as they ended."""
    # One place prints; and Tune must not take Ctrl-C, which it would not tell us of.
    os.environ |= {
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        # It warns when epochs are shorter than this many seconds.
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    }
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)
    from ray import tune as ray_tune
    from ray.tune.schedulers import ASHAScheduler

    from pipelines.trials import domains, trainable

    asked = recipe.search
    assert asked is not None
    concurrent, device = room(recipe, resources)
    points = f"all {log.trials} points" if is_grid(asked) else f"{log.trials} trials by Optuna"
    print(f"search {storage.name}: {points}, {concurrent} at once", flush=True)
    unfinished = ray_tune.Tuner.can_restore(f"{storage.root}/{storage.name}")
    searcher = None
    if not is_grid(asked):
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        searcher = OptunaSearch(seed=asked.seed)
    with _stop_requests(log):
        # tune.run and not Tuner, because Tuner.restore brings back a copy of the callbacks of its own.
        analysis = ray_tune.run(
            trainable(recipe, storage, device),
            name=storage.name,
            storage_path=storage.root,
            config=domains(recipe),
            metric=log.objective,
            mode="min",
            num_samples=1 if is_grid(asked) else asked.trials,
            search_alg=searcher,
            scheduler=ASHAScheduler(
                time_attr="epoch",
                max_t=asked.epochs,
                grace_period=asked.grace_epochs,
                reduction_factor=asked.reduction,
            ),
            checkpoint_config=ray_tune.CheckpointConfig(num_to_keep=2),
            max_concurrent_trials=concurrent,
            reuse_actors=asked.workers == 1,
            time_budget_s=asked.minutes * 60,
            resume="AUTO+ERRORED" if unfinished else None,
            raise_on_failed_trial=False,
            callbacks=[log],
            verbose=0,
        )
    log.close_trials(analysis.trials)
    if log.stop.is_set():
        raise StoppedEarly("")
    return analysis.trials


@contextlib.contextmanager
def _stop_requests(log: StudyLog) -> Iterator[None]:
    """SIGTERM and Ctrl-C ask Tune to save its state and end; a second one ends the process at once."""
    numbers = (signal.SIGTERM, signal.SIGINT)

    def ask(number: int, frame: object) -> None:
        log.stop.set()
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)

    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _conclude(target: Path, recipe: Recipe, log: StudyLog, trials: list[Trial]) -> dict[str, Any]:
    from pipelines.studylog import FAILED

    assert recipe.search is not None
    rows = sorted((log.row(trial) for trial in trials), key=lambda row: row["trial"])
    measured = [row for row in rows if row["bound"] is not None and row["status"] != FAILED]
    failed = sum(row["status"] == FAILED for row in rows)
    if not measured:
        why = (
            f"{failed} of {len(rows)} failed (reasons above)"
            if failed
            else "the time was up before the first epoch"
        )
        raise OperationalError(f"no trial gave a bound: {why}; see search.minutes={recipe.search.minutes:g}")
    winner = min(measured, key=lambda row: row["bound"])
    settings = {key: winner[key] for key in recipe.search.space}
    _print_table(rows, winner)
    print(f"best: {describe(settings)}, bound {winner['bound']:.2f} nats; written to {target / 'best.json'}")
    best = {
        "settings": settings,
        "objective": winner["bound"],
        "metric": log.objective,
        "trials": len(rows),
        "failed": failed,
    }
    return _write(target, rows, best, recipe.search.space)


def _print_table(rows: list[dict[str, Any]], winner: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="trials (bound: held-out free energy, nats; lower is better)")
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        cells = [f"{value:.5g}" if isinstance(value, float) else str(value) for value in row.values()]
        table.add_row(*cells, style="bold" if row is winner else None)
    Console(width=None if sys.stdout.isatty() else 110).print(table)


def _write(
    target: Path, rows: list[dict[str, Any]], best: dict[str, Any], searched: Iterable[str]
) -> dict[str, Any]:
    """Write trials.csv, then best.json, whose presence says that both are there."""
    (target / "best.json").unlink(missing_ok=True)
    text = io.StringIO()
    columns = ["trial", *searched, "epochs", "bound", "seconds", "status"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(target / "trials.csv", text.getvalue().encode())
    write_json(target / "best.json", best)
    return best


if __name__ == "__main__":
    run(tune)
