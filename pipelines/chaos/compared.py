"""In what two trainings differ that should be the same, and what is wrong with what one has tracked."""

from __future__ import annotations

from pathlib import Path

from pipelines.artifacts.history import FILE_NAME, OF_THE_MACHINE, read_history
from seqgen.core.files import file_sha256

WEIGHTS = "model/weights.safetensors"  # below what a training leaves


def compare(one: Path, other: Path) -> list[str]:
    """In what two trainings' products differ: weights, and every epoch's metrics but its times."""
    found = []
    sums = [file_sha256(each / WEIGHTS) for each in (one, other)]
    if sums[0] != sums[1]:
        found.append(f"weights {sums[0][:12]} and {sums[1][:12]}")
    rows = [
        [
            {key: value for key, value in row.items() if key not in OF_THE_MACHINE}
            for row in read_history(each / FILE_NAME)
        ]
        for each in (one, other)
    ]
    if rows[0] != rows[1]:
        pairs = zip(*rows, strict=False)
        number = next(
            (index for index, (a, b) in enumerate(pairs, start=1) if a != b), min(map(len, rows)) + 1
        )
        found.append(f"history, from row {number} on ({len(rows[0])} and {len(rows[1])} rows)")
    return found


def tracked(uri: str) -> list[str]:
    """What is wrong with what was tracked: there must be one finished run, and no step of a metric twice."""
    from pipelines.tracking.server import connect

    client = connect(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments)
    if len(found) != 1 or found[0].info.status != "FINISHED":
        return [
            f"{len(found)} runs ({', '.join(run.info.status for run in found)}), where there should be one, FINISHED"
        ]
    (only,) = found
    problems = []
    for name in only.data.metrics:
        steps = [entry.step for entry in client.get_metric_history(only.info.run_id, name)]
        if len(steps) != len(set(steps)):
            problems.append(f"metric {name} has a step twice")
    return problems
