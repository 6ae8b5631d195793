"""A run's history as a file."""

from __future__ import annotations

from pathlib import Path

from pipelines.artifacts.history import Row, read_history, write_history

HELD_OUT = "valid/dynamic/free_energy"


def row(epoch: int, **more: float) -> Row:
    metrics = {"train/free_energy": 101.5, "train/kl": 20.25, "images_per_second": 1234.0, "seconds": 60.0}
    return {"epoch": epoch, "step": 7 * epoch, **metrics, **more}


def test_history_comes_back_with_what_was_not_measured_left_out(tmp_path: Path):
    rows = [row(1), row(2, **{HELD_OUT: 99.123456789012345})]
    write_history(tmp_path / "history.csv", rows)
    assert read_history(tmp_path / "history.csv") == rows
    assert (tmp_path / "history.csv").read_text().splitlines()[0].startswith("epoch,step,train/free_energy")
    write_history(tmp_path / "empty.csv", [])
    assert read_history(tmp_path / "empty.csv") == []
