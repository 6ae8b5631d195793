"""Search the settings of search.space with Ray Tune and ASHA; the best ones feed the train stage."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from pipelines.artifacts.places import places
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cluster.storage import RunStorage, state_root, storage_root
from pipelines.recipes import load_recipe
from pipelines.search.search_space import checked_recipes, describe, trial_count
from seqgen.core.errors import BadInput, OperationalError, StoppedEarly
from seqgen.core.files import canonical_digest, write_bytes, write_json
from seqgen.data.manifest import Manifest
from seqgen.settings import Recipe

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from pipelines.search.callback import StudyLog


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
    from pipelines.tracking.lineage import code_digest

    assert recipe.search is not None
    asked = recipe.search.model_dump(mode="json", exclude={"minutes"})
    digest = canonical_digest([recipe.digest(), asked, manifest.digest, code_digest()])
    return f"{recipe.name}-tune-{digest[:12]}"


def _check(recipe: Recipe) -> Manifest:
    """All that can be known before anything starts: space, shards, room for a trial."""
    from pipelines.cluster import connect
    from pipelines.search.driver import room
    from pipelines.train import check

    assert recipe.search is not None
    recipes = checked_recipes(recipe)
    manifest = check(recipe)
    images = min(recipe.search.train_images or math.inf, manifest.splits["train"].images)
    for trial in recipes:
        if trial.train.batch > images:
            raise BadInput(f"train.batch={trial.train.batch} exceeds the {images} images a trial trains on")
    if not connect.elsewhere():
        room(recipe, connect.this_machine())
    return manifest


@contextlib.contextmanager
def _only_one(name: str) -> Iterator[str]:
    path = state_root() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            yield name
    except Timeout:
        raise BadInput(
            f"this search is being run by another process (it holds {path}); wait for it"
        ) from None


def _search(recipe: Recipe, manifest: Manifest, name: str, target: Path) -> dict[str, Any]:
    from pipelines.cli.signals import raise_on_stop
    from pipelines.cluster import connect
    from pipelines.search.callback import StudyLog
    from pipelines.search.driver import run_trials
    from pipelines.search.trial import objective
    from pipelines.tracking import runs

    raise_on_stop()
    assert recipe.search is not None
    storage = RunStorage.next(storage_root(), name)
    kept = storage.state().get("run_id")
    run_id = runs.open_run(recipe, manifest, run_id=kept, name=storage.name, kind="study")
    status: runs.Status = "FAILED"
    try:
        storage.keep({"run_id": run_id})
        log = StudyLog(recipe, manifest, run_id, objective(recipe), trial_count(recipe.search))
        with connect.connected(dashboard=recipe.search.workers > 1) as resources:
            trials = run_trials(recipe, storage, log, resources)
        best = conclude(target, recipe, log, trials)
        storage.complete()
        status = "FINISHED"
        return best
    except (StoppedEarly, KeyboardInterrupt):
        status = "KILLED"
        raise StoppedEarly("search stopped; run the same command again to go on with it") from None
    finally:
        if status == "FINISHED":
            runs.attach(run_id, target, "search")
        runs.close_run(run_id, status)


def conclude(target: Path, recipe: Recipe, log: StudyLog, trials: list[Trial]) -> dict[str, Any]:
    """Choose the trial with the lowest bound, print the table and write the two files; returns best.json.

    Raises OperationalError if no trial that did not fail has a bound.
    """
    from pipelines.search.callback import FAILED

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
    if missing := trial_count(recipe.search) - len(rows):
        print(f"the time was up before {missing} more trials: search.minutes={recipe.search.minutes:g}")
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
