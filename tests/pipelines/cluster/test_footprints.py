"""What a training's processes hold: real processes, and a table of two of them that grow."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import psutil

from pipelines.cluster.footprints import Footprints, Held, grown

SLEEP = "import time; print(flush=True); time.sleep(600)"


def test_a_living_process_of_a_known_kind_has_a_row(tmp_path: Path):
    def started(name: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen([sys.executable, "-c", SLEEP, name], stdout=subprocess.PIPE)
        assert child.stdout
        child.stdout.readline()
        return child

    driver, other, dead = children = [started(name) for name in ("pipelines.train", "unknown", "raylet")]
    try:
        looked_at = [psutil.Process(child.pid) for child in children]
        dead.kill()
        dead.wait()
        Footprints(tmp_path / "table.csv").take(looked_at)
        held = looked_at[0].num_threads()
    finally:
        for child in (driver, other):
            child.kill()
            child.wait()
    with (tmp_path / "table.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["kind"], int(row["pid"]), int(row["threads"])) == ("driver", driver.pid, held)
    assert float(row["mebibytes"]) > 1
    assert int(row["files"]) >= 3


def test_the_first_fifth_is_compared_with_the_last_once_a_process_has_settled(tmp_path: Path):
    table = tmp_path / "table.csv"
    rows = ["seconds,kind,pid,age,mebibytes,files,threads"]
    rows += [f"{second},driver,1,{second},{100 + second},{second // 10},7" for second in range(0, 131, 10)]
    rows += ["120,worker,2,5,900,90,90", "60,raylet,3,60,1,1,1"]  # one too young, one in the middle
    table.write_text("\n".join([rows[0], *sorted(rows[1:], key=lambda row: int(row.split(",")[0]))]))
    assert grown(table) == {"driver": (Held(140, 4, 7), Held(220, 12, 7))}


def test_of_a_training_that_was_over_at_once_nothing_is_said(tmp_path: Path):
    Footprints(tmp_path / "table.csv")
    assert grown(tmp_path / "table.csv") == {}
