"""A search as Ray Tune runs it: how many trials at once, ASHA or the whole grid, stopping and going on."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from pipelines.cli.signals import on_stop
from pipelines.search.search_space import checked_recipes, is_grid
from seqgen.core.errors import BadInput, StoppedEarly
from seqgen.core.machine import Device, Resources
from seqgen.settings import Recipe

if TYPE_CHECKING:
    from pipelines.artifacts.search_result import TrialRow
    from pipelines.cluster.storage import RunStorage
    from pipelines.search.callback import SearchLog


def concurrent_trials(recipe: Recipe, resources: Resources) -> tuple[int, Device]:
    """How many trials run at once, each with all its workers, and on which device.

    Raises BadInput if one trial is too large for the cluster.
    """
    from seqgen.training.memory import bytes_needed
    from seqgen.training.resources import device_for

    assert recipe.search is not None
    workers, owner = recipe.search.workers, resources.owner
    if workers > resources.cpus:
        raise BadInput(f"search.workers={workers}: {owner} has {resources.cpus} CPUs; use at most that many")
    trials = checked_recipes(recipe)
    if {device_for(trial, resources) for trial in trials} == {"cuda"}:
        return resources.gpus // workers, "cuda"
    largest = max(bytes_needed(trial) for trial in trials)
    return max(1, min(resources.cpus // workers, resources.memory // largest)), "cpu"


def domains(recipe: Recipe) -> dict[str, Any]:
    """The checked space in Ray Tune's terms; a range of a whole-number setting has both ends."""
    from ray import tune

    assert recipe.search is not None
    choose = tune.grid_search if is_grid(recipe.search) else tune.choice
    one, *_ = checked_recipes(recipe)  # the recipe itself may lack a setting whose kind the space chooses
    found: dict[str, Any] = {}
    for key, values in recipe.search.space.items():
        section, name = key.split(".")
        if isinstance(values, list):
            found[key] = choose(values)
        elif isinstance(getattr(getattr(one, section), name), int):
            found[key] = (tune.lograndint if values.get("log") else tune.randint)(
                values["low"], values["high"] + 1
            )
        else:
            found[key] = (tune.loguniform if values.get("log") else tune.uniform)(
                values["low"], values["high"]
            )
    return found


def run_trials(recipe: Recipe, storage: RunStorage, log: SearchLog, resources: Resources) -> list[TrialRow]:
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

    from pipelines.search.saved_state import can_go_on
    from pipelines.search.trial import CHECKPOINTS_KEPT, trainable

    asked = recipe.search
    assert asked is not None
    concurrent, device = concurrent_trials(recipe, resources)
    saved = can_go_on(storage)
    points = f"all {log.trial_count} points" if is_grid(asked) else f"{log.trial_count} trials by Optuna"
    print(f"search {storage.name}: {points}, {concurrent} at once", flush=True)
    searcher = None
    if not is_grid(asked):
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        searcher = OptunaSearch(seed=asked.seed)
    with on_stop(log.stop.set):
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
            # It logs an error where it is asked to resume without a saved state.
            resume="AUTO+ERRORED" if saved else None,
            raise_on_failed_trial=False,
            callbacks=[log],
            verbose=0,
        )
    ours = storage.is_ours()
    log.close_trials(analysis.trials, ours)
    if log.stop.is_set() or not ours:
        raise StoppedEarly("")
    return [log.row(trial) for trial in analysis.trials]
