"""What the tracking server did not take while it was away: a file a run, sent later by `pipelines.replay`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.artifacts.places import state_root
from pipelines.tracking.sender import BATCH, Point, Sender
from seqgen.core.files import write_bytes


def spool_directory() -> Path:
    """Where what the tracking server did not take is kept, a file a run."""
    return state_root() / "spool"


def append(spool: Path, run_id: str, records: list[dict[str, Any]]) -> Path:
    """Add records, {"point": Point} or {"status": name}, to a run's file in `spool` and return the file."""
    spool.mkdir(parents=True, exist_ok=True)
    path = spool / f"{run_id}.jsonl"
    with path.open("a") as stream:
        stream.writelines(json.dumps(record) + "\n" for record in records)
    return path


def spool_status(run_id: str, status: str) -> Path:
    """Keep a run's terminal status for `replay`, after the points spooled before it."""
    return append(spool_directory(), run_id, [{"status": status}])


def forget_status(run_id: str) -> None:
    """Drop the spooled statuses of a run that is gone on with; its points stay."""
    path = spool_directory() / f"{run_id}.jsonl"
    try:
        lines = path.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return
    kept = [line for line in lines if "status" not in json.loads(line)]
    if not kept:
        path.unlink()
    elif len(kept) < len(lines):
        write_bytes(path, "".join(kept).encode())


def replay(uri: str, path: Path) -> int:
    """Send the spooled records of one run, remove the file and return how many there were.

    The last status counts, and only if the run is still RUNNING on the server. Raises ConnectionError if
    nothing answers, else MLflow's errors; the file is then kept.
    """
    from mlflow import MlflowClient

    records = [json.loads(line) for line in path.read_text().splitlines()]
    sender = Sender(uri, path.stem)
    points = [Point(*record["point"]) for record in records if "point" in record]
    for start in range(0, len(points), BATCH):
        sender.send(points[start : start + BATCH])
    statuses = [record["status"] for record in records if "status" in record]
    if statuses:
        client = MlflowClient(tracking_uri=uri)
        if client.get_run(path.stem).info.status == "RUNNING":  # else it was gone on with, and has its own
            client.set_terminated(path.stem, statuses[-1])
    path.unlink()
    return len(records)
