"""A run's history: a row of metrics an epoch, kept in every checkpoint, so that a resumed run has it all."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from seqgen.core.files import write_bytes

FILE_NAME = "history.csv"
Row = dict[str, float]
# The metrics in which a run that is made again, to the same bits, differs.
OF_THE_MACHINE = ("seconds", "images_per_second", "peak_memory_gib")


def write_history(path: Path, rows: list[Row]) -> None:
    """Write rows as CSV: epoch, step, then every metric that occurs; empty where an epoch has none."""
    columns = list(dict.fromkeys(["epoch", "step", *(key for row in rows for key in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def read_history(path: Path) -> list[Row]:
    """Rows as `write_history` had them; `epoch` and `step` are whole numbers."""
    with path.open(newline="") as stream:
        return [
            {
                key: int(value) if key in ("epoch", "step") else float(value)
                for key, value in row.items()
                if value
            }
            for row in csv.DictReader(stream)
        ]
