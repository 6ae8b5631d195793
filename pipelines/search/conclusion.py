"""How a search ends: the trial with the lowest bound, told in a table and written down for the train stage."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from pipelines.artifacts.places import places
from pipelines.artifacts.search_result import TrialRow, write_search_result
from pipelines.search.search_space import describe, trial_count
from seqgen.core.errors import OperationalError
from seqgen.settings import Recipe


class Ending(StrEnum):
    """How a trial ended."""

    FINISHED = "finished"
    STOPPED = "asha"
    FAILED = "failed"
    OUT_OF_TIME = "out of time"
    INTERRUPTED = "interrupted"


def conclude(recipe: Recipe, trials: Sequence[TrialRow]) -> dict[str, Any]:
    """Choose the trial with the lowest bound, print the table and write the files; returns best.json.

    Raises OperationalError if no trial that did not fail has a bound.
    """
    assert recipe.search is not None
    trials = sorted(trials, key=lambda row: row["trial"])
    measured = [row for row in trials if row["bound"] is not None and row["status"] != Ending.FAILED]
    failed = sum(row["status"] == Ending.FAILED for row in trials)
    if not measured:
        why = (
            f"{failed} of {len(trials)} failed (reasons above)"
            if failed
            else "the time was up before the first epoch"
        )
        raise OperationalError(f"no trial gave a bound: {why}; see search.minutes={recipe.search.minutes:g}")
    winner = min(measured, key=lambda row: row["bound"])
    settings = {key: winner[key] for key in recipe.search.space}
    best = {
        "settings": settings,
        "objective": winner["bound"],
        "metric": recipe.data.held_out_metric,
        "checkpoint": winner["checkpoint"],
        "trials": len(trials),
        "failed": failed,
    }
    write_search_result(recipe, best, trials)
    _print_table(trials, winner)
    if missing := trial_count(recipe.search) - len(trials):
        print(f"the time was up before {missing} more trials: search.minutes={recipe.search.minutes:g}")
    written = places(recipe).search / "best.json"
    print(f"best: {describe(settings)}, bound {winner['bound']:.2f} nats; written to {written}")
    return best


def _print_table(trials: Sequence[TrialRow], winner: TrialRow) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="trials (bound: held-out free energy, nats; lower is better)")
    columns = [column for column in trials[0] if column != "checkpoint"]
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in trials:
        values = [row[column] for column in columns]
        cells = [f"{value:.5g}" if isinstance(value, float) else str(value) for value in values]
        table.add_row(*cells, style="bold" if row is winner else None)
    Console(width=None if sys.stdout.isatty() else 110).print(table)
