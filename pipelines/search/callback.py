"""What is written down about a search: lines on the terminal, a tracked run a trial, how each ended."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from pipelines.artifacts.history import OF_THE_MACHINE
from pipelines.artifacts.search_result import TrialRow
from pipelines.search.conclusion import Ending
from pipelines.search.search_space import describe, trial_count, trial_recipe
from pipelines.tracking import runs
from seqgen.data.manifest import Manifest
from seqgen.settings import Recipe

_TRIAL_TAG, _END_TAG = "seqgen.trial", "seqgen.stopped_by"
_STATUS: dict[Ending, runs.Status] = {
    Ending.FINISHED: "FINISHED",
    Ending.STOPPED: "FINISHED",
    Ending.FAILED: "FAILED",
    Ending.OUT_OF_TIME: "KILLED",
    Ending.INTERRUPTED: "KILLED",
}
_METRICS = ("train/", "valid/", "learning_rate", "grad_norm", *OF_THE_MACHINE)


class SearchLog(Callback):
    """Runs in the driver, so that a trial needs no MLflow; the tracking server's trouble never ends a search.

    `ended` says how each trial that ended did; it is part of Tune's saved state and so survives the driver.
    """

    def __init__(self, recipe: Recipe, manifest: Manifest, run_id: str) -> None:
        """`run_id` is the search's open run. Raises OperationalError."""
        assert recipe.search is not None
        self.recipe, self.manifest, self.search = recipe, manifest, recipe.search
        self.objective, self.trial_count = recipe.data.held_out_metric, trial_count(recipe.search)
        self.stop = threading.Event()
        self.ended: dict[str, Ending] = {}
        self._numbers: dict[str, int] = {}
        self._logs: dict[str, runs.MetricLog] = {}
        self.run_id = run_id
        self._runs = runs.children(run_id, _TRIAL_TAG)

    def settings(self, trial: Trial) -> dict[str, Any]:
        """What the trial was given of the space."""
        return {key: trial.config[key] for key in self.search.space}

    def get_state(self) -> dict[str, Any]:
        """What a killed driver's successor must know."""
        return {"ended": dict(self.ended), "numbers": dict(self._numbers)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take over from a killed driver; called before the first trial starts."""
        self.ended, self._numbers = state["ended"], state["numbers"]

    def number(self, trial: Trial) -> int:
        """The trial's number, from 1 in the order in which Tune made them."""
        return self._numbers.setdefault(trial.trial_id, len(self._numbers) + 1)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Pass a request to stop on to Tune, in the one place where it listens and saves its state."""
        if self.stop.is_set():
            signal.raise_signal(signal.SIGUSR1)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Open the trial's run, or its former one after a restart."""
        for each in trials:
            self.number(each)
        self.ended.pop(trial.trial_id, None)
        epoch = trial.last_result.get("epoch")
        self._say(trial, f"goes on, was at epoch {epoch}" if epoch else "starts")
        self._tracked(lambda: self._open(trial))

    def _open(self, trial: Trial) -> None:
        if trial.trial_id in self._logs:
            return
        run_id = runs.open_run(
            trial_recipe(self.recipe, self.settings(trial)),
            self.manifest,
            run_id=self._runs.get(trial.trial_id),
            parent=self.run_id,
            name=f"trial {self.number(trial)}",
            kind="trial",
            tags={_TRIAL_TAG: trial.trial_id},
        )
        self._runs[trial.trial_id] = run_id
        self._logs[trial.trial_id] = runs.MetricLog(runs.tracking_uri(), run_id)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Log an epoch of a trial."""
        if self.objective in result:
            bound = f"bound {result[self.objective]:.2f} nats"
            self._say(trial, f"epoch {result['epoch']}/{self.search.epochs}, {bound}")
        if trial.trial_id in self._logs:
            metrics = {key: value for key, value in result.items() if key.startswith(_METRICS)}
            self._logs[trial.trial_id].log(metrics, result["step"])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial did all its epochs, or ASHA stopped it."""
        done = trial.last_result.get("epoch", 0) >= self.search.epochs
        if not done:
            self._say(trial, "stopped by ASHA")
        self._end(trial, Ending.FINISHED if done else Ending.STOPPED)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial failed; the search goes on."""
        self._say(trial, f"failed: {_reason(trial)}")
        self._end(trial, Ending.FAILED)

    def _end(self, trial: Trial, how: Ending) -> None:
        self.ended[trial.trial_id] = how
        if log := self._logs.pop(trial.trial_id, None):
            log.close()
        if run_id := self._runs.get(trial.trial_id):
            if how in (Ending.STOPPED, Ending.OUT_OF_TIME):
                self._tracked(lambda: runs.connect().set_tag(run_id, _END_TAG, str(how)))
            runs.close_run(run_id, _STATUS[how])

    def close_trials(self, trials: Iterable[Trial], ours: bool) -> None:
        """End what did not end by itself: the time is up, or the search was asked to stop.

        If it is not `ours` any more, another machine goes on with these trials: their runs are left to it.
        """
        for trial in trials:
            if trial.trial_id in self.ended:
                continue
            if ours:
                self._end(trial, Ending.INTERRUPTED if self.stop.is_set() else Ending.OUT_OF_TIME)
            elif log := self._logs.pop(trial.trial_id, None):
                log.close()
                runs.leave_run(self._runs[trial.trial_id])

    def row(self, trial: Trial) -> TrialRow:
        """The trial's line of the table: settings, epochs done, last bound (None if none), seconds, end.

        And the checkpoint of that epoch, a path or s3://<bucket>/<key> (None if the last one was of an epoch before).
        """
        result = trial.last_result
        saved = trial.latest_checkpoint_result  # which a Ray Train run, of several workers, keeps by itself
        checkpoint = result.get("checkpoint_path")
        if saved is not None and saved.checkpoint and saved.metrics.get("epoch") == result.get("epoch"):
            checkpoint = saved.checkpoint.path
        if checkpoint and trial.storage and trial.storage.storage_filesystem.type_name == "s3":
            checkpoint = f"s3://{checkpoint}"
        return {
            "trial": self.number(trial),
            **self.settings(trial),
            "epochs": result.get("epoch", 0),
            "bound": result.get(self.objective),
            "seconds": round(result.get("time_total_s", 0.0), 1),
            "status": self.ended[trial.trial_id],
            "checkpoint": checkpoint,
        }

    def _say(self, trial: Trial, what: str) -> None:
        number = f"trial {self.number(trial)}/{self.trial_count}"
        print(f"{number} ({describe(self.settings(trial))}): {what}", flush=True)

    def _tracked(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:
            print(f"warning: tracking: {' '.join(str(error).split())[:200]}", file=sys.stderr, flush=True)


def _reason(trial: Trial) -> str:
    """The line of Tune's error file that says why: the last of a traceback, the first of a lost process."""
    try:
        text = Path(trial.error_file).read_text()
    except (OSError, TypeError):
        return "no reason is known"
    lines = text.rpartition("Failure # ")[2].strip().splitlines()[1:]
    raised = any(line.lstrip().startswith('File "') for line in lines)
    return lines[-1 if raised else 0] if lines else "no reason is known"
