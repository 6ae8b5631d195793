"""Rows of benchmarks.throughput: kept in a result file, merged with new ones, shown as tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from benchmarks import page
from benchmarks.specs import SPECIFICATIONS
from seqgen.core.files import write_bytes, write_json

Who = Literal["textbook", "seqgen"]
Row = dict[str, Any]
WHO: tuple[Who, ...] = ("textbook", "seqgen")
_KEY = ("name", "batch", "precision", "compiled", "threads")
_LABEL = ["model", "batch", "precision"]
_PAIR = ["textbook, images/s", "seqgen, images/s", "ratio"]


def read(path: Path) -> list[Row]:
    """The rows of a result file; none if there is none."""
    return json.loads(path.read_text())["rows"] if path.is_file() else []


def merged(stored: list[Row], new: list[Row]) -> list[Row]:
    """`new` and what of `stored` it does not replace, in the order of SPECIFICATIONS."""
    rows = {tuple(row[part] for part in _KEY): row for row in [*stored, *new]}
    names = list(SPECIFICATIONS)
    return sorted(
        (row for row in rows.values() if row["name"] in names),
        key=lambda r: (r["precision"], r["compiled"], r["threads"], r["batch"], names.index(r["name"])),
    )


def store(rows: list[Row], section: str, out: Path | None) -> None:
    """Publish the rows; with `out` write <section>.json and .md there instead, and leave the page alone."""
    if out is None:
        page.publish(section, {"rows": rows}, tables(rows))
        return
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{section}.json", {"rows": rows})
    write_bytes(out / f"{section}.md", (tables(rows) + "\n").encode())


def tables(rows: list[Row]) -> str:
    """The rows as markdown: training, then sampling and NLL, then what they were measured with."""
    heading = "A training step; pairs of figures are the textbook's and seqgen's"
    parts = [heading, _training(rows)]
    drawn = [row for row in rows if "nll" in row]
    if drawn:
        sheet = drawn[0]["sampling"]["seqgen"]["images"]
        parts += [
            f"A sheet of {sheet} samples, and the NLL (images with all their k samples)",
            _drawing(drawn),
        ]
    return "\n\n".join([*parts, "\n".join(_origins(rows))])


def _training(rows: list[Row]) -> str:
    header = ["MFLOP an image", "share of peak", "products alone", "memory, MB", "first step, s"]
    lines = []
    for row in rows:
        step, fresh = row["training"], row["fresh"]
        lines.append(
            [
                *_label(row),
                *_pair(step),
                f"{step['flops'] / row['batch'] * 1e-6:,.0f}",
                _both(f"{step[who]['share_of_peak']:.0%}" for who in WHO),
                _both(f"{step[who]['share_of_products_alone']:.0%}" for who in WHO),
                _both(_megabytes(fresh[who]["peak_bytes"]) for who in WHO),
                _both(f"{fresh[who]['first_step_seconds']:.2f}" for who in WHO),
            ]
        )
    return page.table([*_LABEL, *_PAIR, *header], lines)


def _drawing(rows: list[Row]) -> str:
    lines = [
        [*_label(row), *_pair(row["sampling"]), str(row["nll"]["k"]), *_pair(row["nll"])] for row in rows
    ]
    samples, bounds = ([f"{what}: {text}" for text in _PAIR] for what in ("samples", "NLL"))
    return page.table([*_LABEL, *samples, "k", *bounds], lines)


def _label(row: Row) -> list[str]:
    return [row["name"], str(row["batch"]), row["precision"] + (", compiled" if row["compiled"] else "")]


def _pair(result: Row) -> list[str]:
    rates = (result[who]["images_per_second"] for who in WHO)
    return [
        *(f"{rate:,.{0 if rate >= 100 else 2}f}" for rate in rates),
        f"**{result['ratio']:.2f}**",
    ]


def _both(texts: Any) -> str:
    return " / ".join(texts)


def _megabytes(size: float | None) -> str:
    return "-" if size is None else f"{size / 1e6:,.0f}"


def _origins(rows: list[Row]) -> list[str]:
    """A line for each command and machine, with the highest peak it saw."""
    peaks: dict[str, float] = {}
    for row in rows:
        machine, threads = row["machine"], row["threads"]
        line = (
            f"* `{row['command']}`: {machine['chip']}, {threads} thread{'s' if threads > 1 else ''}, "
            f"torch {machine['torch']}, medians of {row['rounds']}, commit {row['commit'][:10]}; "
            f"peak of {row['precision']} products, GFLOP/s: "
        )
        peaks[line] = max(peaks.get(line, 0.0), *row["peak"][row["precision"]].values())
    return [f"{line}{peak:,.0f}" for line, peak in peaks.items()]
