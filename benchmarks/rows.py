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
_KEY = ("name", "batch", "precision", "compiled", "threads", "instructions")
_INSTRUCTIONS = ("avx512", "avx2", "neon", "generic", "off")  # the best first
_LABEL = ["model", "kernels", "batch", "precision"]
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
        key=lambda row: (
            *(row[part] for part in ("precision", "compiled", "threads", "batch")),
            names.index(row["name"]),
            _INSTRUCTIONS.index(row["instructions"]),
        ),
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
    origins = _origins(rows)
    heading = "A training step; pairs of figures are the textbook's and seqgen's"
    parts = [heading, _training(rows, list(origins))]
    drawn = [row for row in rows if "nll" in row]
    if drawn:
        sheet = drawn[0]["sampling"]["seqgen"]["images"]
        parts += [
            f"A sheet of {sheet} samples, and the NLL (images with all their k samples)",
            _drawing(drawn),
        ]
    made = [f"{number}. {line}{peak:,.0f}" for number, (line, peak) in enumerate(origins.items(), 1)]
    return "\n\n".join([*parts, "\n".join(made)])


def _training(rows: list[Row], origins: list[str]) -> str:
    header = [
        "MFLOP an image",
        "share of peak",
        "products alone",
        "memory, MB",
        "first step, s",
        "by",
    ]
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
                str(1 + origins.index(_origin(row))),
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
    how = row["precision"] + (", compiled" if row["compiled"] else "")
    return [row["name"], row["instructions"], str(row["batch"]), how]


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


def _origins(rows: list[Row]) -> dict[str, float]:
    """A line for each command and machine, with the highest peak it saw."""
    peaks: dict[str, float] = {}
    for row in rows:
        line = _origin(row)
        peaks[line] = max(peaks.get(line, 0.0), *row["peak"][row["precision"]].values())
    return peaks


def _origin(row: Row) -> str:
    machine, threads = row["machine"], row["threads"]
    return (
        f"`{row['command']}`: {machine['chip']}, {threads} thread{'s' if threads > 1 else ''}, "
        f"torch {machine['torch']}, medians of {row['rounds']}, commit {row['commit'][:10]}; "
        f"peak of {row['precision']} products, GFLOP/s: "
    )
