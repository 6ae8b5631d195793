"""Search the settings of search.space with Ray Tune."""

from __future__ import annotations

import math

from pipelines.artifacts.places import places
from pipelines.artifacts.search_result import write_search_result
from pipelines.artifacts.shards import check_fit, checked_manifest
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.signals import raise_on_stop
from pipelines.cluster.connect import connected, elsewhere
from pipelines.cluster.room import check_room
from pipelines.cluster.storage import RunStorage
from pipelines.recipes import load_recipe
from pipelines.search.conclusion import conclude
from pipelines.search.search_space import checked_recipes, trial_count
from pipelines.search.trial import CHECKPOINTS_KEPT
from pipelines.storage.lease import Lost
from pipelines.tracking import lineage
from seqgen.core.errors import BadInput, StoppedEarly
from seqgen.core.files import canonical_digest
from seqgen.data.manifest import Manifest
from seqgen.settings import Recipe


def tune(recipe: RecipeOption = None, settings: SetOption = None) -> None:
    """Search the settings listed in search.space. Run again, an interrupted search goes on."""
    raise_on_stop()
    search(load_recipe(recipe, settings or ()))


def search(recipe: Recipe) -> None:
    """Run the recipe's search, or go on with it, and write artifacts/<recipe>/search.

    Raises BadInput before anything starts, StoppedEarly (run it again to go on), OperationalError if no trial gave
    a bound.
    """
    if recipe.search is None:
        print(f"recipe {recipe.name} has no search section: its own settings stand")
        write_search_result(recipe, {"settings": {}})
        return
    manifest = _check(recipe)

    from pipelines.search.callback import SearchLog
    from pipelines.search.driver import run_trials
    from pipelines.tracking import runs
    from pipelines.tracking.tracked_run import tracked_run

    with RunStorage.claim(search_name(recipe, manifest)) as storage:
        try:
            with tracked_run(recipe, manifest, storage, kind="study") as run_id:
                log = SearchLog(recipe, manifest, run_id)
                with connected(dashboard=recipe.search.workers > 1) as resources:
                    trials = run_trials(recipe, storage, log, resources)
                conclude(recipe, trials)
                runs.attach(run_id, places(recipe).search, "search")
            storage.complete({})
        except Lost:  # it goes on elsewhere
            raise
        except (StoppedEarly, KeyboardInterrupt):
            raise StoppedEarly("search stopped; run the same command again to go on with it") from None


def _check(recipe: Recipe) -> Manifest:
    """All that can be known before anything starts: space, shards, room for a trial."""
    from seqgen.training.memory import checkpoint_bytes

    assert recipe.search is not None
    trials = checked_recipes(recipe)
    manifest = checked_manifest(recipe)
    images = min(recipe.search.train_images or math.inf, manifest.splits["train"].images)
    for trial in trials:
        check_fit(trial, manifest)
        if trial.train.batch > images:
            raise BadInput(f"train.batch={trial.train.batch} exceeds the {images} images a trial trains on")
    if not elsewhere():
        from pipelines.search.driver import concurrent_trials
        from seqgen.training.resources import this_machine

        concurrent_trials(recipe, this_machine())
    check_room(max(map(checkpoint_bytes, trials)), CHECKPOINTS_KEPT * trial_count(recipe.search))
    return manifest


def search_name(recipe: Recipe, manifest: Manifest) -> str:
    """The name of the search: another space, data or code is another search, more minutes are not."""
    assert recipe.search is not None
    asked = recipe.search.model_dump(mode="json", exclude={"minutes"})
    digest = canonical_digest([recipe.digest(), asked, manifest.digest, lineage.code_digest(recipe)])
    return f"{recipe.name}-tune-{digest[:12]}"


if __name__ == "__main__":
    run(tune)
