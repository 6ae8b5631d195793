"""A search as Ray Tune runs it: how many trials at once, ASHA or the whole grid, stopping and going on."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipelines.search.search_space import checked_recipes, is_grid
from seqgen.core.errors import BadInput, StoppedEarly
from seqgen.settings import Recipe

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from pipelines.cluster.connect import Resources
    from pipelines.cluster.storage import RunStorage
    from pipelines.search.callback import StudyLog


def room(recipe: Recipe, resources: Resources) -> tuple[int, str]:
    """How many trials run at once, each with all its workers, and on which device.

    Raises BadInput if one trial is too large for the cluster.
    """
    from seqgen.training.memory import bytes_needed

    assert recipe.search is not None
    workers = recipe.search.workers
    if workers > resources.cpus:
        where = "this machine" if resources.here else "the Ray cluster"
        raise BadInput(f"search.workers={workers}: {where} has {resources.cpus} CPUs; use at most that many")
    trials = checked_recipes(recipe)
    if {resources.check(trial, "auto") for trial in trials} == {"cuda"}:
        return resources.gpus // workers, "cuda"
    largest = max(bytes_needed(trial) for trial in trials)
    return max(1, min(resources.cpus // workers, resources.memory // largest)), "cpu"


def run_trials(recipe: Recipe, storage: RunStorage, log: StudyLog, resources: Resources) -> list[Trial]:
    """Let Tune run the trials, or what is left of them, and return them all as they ended."""
    # One place prints; and Tune must not take Ctrl-C, which it would not tell us of.
    os.environ |= {
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "5",  # how often it saves its state
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        # It warns when epochs are shorter than this many seconds.
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    }
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)
    # After a kill Tune logs, with traceback, that an old checkpoint it wants to delete is gone already.
    logging.getLogger("ray.tune.execution.tune_controller").addFilter(
        lambda record: "Error handling checkpoint" not in record.getMessage()
    )
    from ray import tune as ray_tune
    from ray.tune.schedulers import ASHAScheduler

    from pipelines.search.trial import CHECKPOINTS_KEPT, domains, trainable

    asked = recipe.search
    assert asked is not None
    concurrent, device = room(recipe, resources)
    points = f"all {log.trials} points" if is_grid(asked) else f"{log.trials} trials by Optuna"
    print(f"search {storage.name}: {points}, {concurrent} at once", flush=True)
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
            checkpoint_config=ray_tune.CheckpointConfig(num_to_keep=CHECKPOINTS_KEPT),
            max_concurrent_trials=concurrent,
            reuse_actors=asked.workers == 1,
            time_budget_s=asked.minutes * 60,
            resume="AUTO+ERRORED" if _has_snapshot(storage) else None,
            raise_on_failed_trial=False,
            callbacks=[log],
            verbose=0,
        )
    log.close_trials(analysis.trials)
    if log.stop.is_set():
        raise StoppedEarly("")
    return analysis.trials


def _has_snapshot(storage: RunStorage) -> bool:
    """Whether Tune has saved its state of this search (it logs an error where it is asked to resume without)."""
    from pyarrow import fs

    filesystem, path = fs.FileSystem.from_uri(f"{storage.root}/{storage.name}")
    files = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return any(file.base_name.startswith("experiment_state") for file in files)


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
