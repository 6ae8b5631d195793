"""What the verbs of one-shot evaluation leave: one table a verb, bound to the weights that it was measured on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from pipelines.artifacts.measurements import read_json
from pipelines.artifacts.trained_model import TrainedModel
from seqgen.core.files import write_json


class Entry(TypedDict):
    """One number: its standard error by character (or run), and by alphabet where that was made."""

    value: float
    se: float | None
    se_by_alphabet: float | None
    images: int
    k: int | None
    unit: str


def entry(
    value: float,
    se: float | None,
    images: int,
    *,
    unit: str,
    se_by_alphabet: float | None = None,
    k: int | None = None,
) -> Entry:
    """An entry of a table."""
    return Entry(value=value, se=se, se_by_alphabet=se_by_alphabet, images=images, k=k, unit=unit)


def write_table(
    trained: TrainedModel,
    verb: str,
    entries: Mapping[str, Entry],
    about: Mapping[str, Any],
    title: str,
    *,
    name: str | None = None,
) -> Path:
    """Write artifacts/<recipe>/one_shot/<verb>.json, or `name`.json; `about` are the choices it was measured with.

    Of those `options` are what the command line had beside recipe and settings, `needs` a command that has to be run
    before, and `notes` lines that belong under the table.
    """
    path = trained.places.one_shot / f"{name or verb}.json"
    content = {
        "title": title,
        "recipe": trained.recipe.name,
        "weights": trained.weights,
        "manifest": trained.run["manifest_digest"],
        "split": trained.recipe.evaluate.split,
        "command": " ".join(filter(None, [command(trained, verb), about.get("options")])),
        "about": dict(about),
        "entries": dict(entries),
    }
    write_json(path, content)
    return path


def read_tables(trained: TrainedModel) -> list[dict[str, Any]]:
    """The tables that were measured on these weights, by verb."""
    tables = (read_json(path) for path in sorted(trained.places.one_shot.glob("*.json")))
    return [table for table in tables if table and table.get("weights") == trained.weights]


def command(trained: TrainedModel, verb: str) -> str:
    """The command that measures the same model by `verb`."""
    return shlex.join(["python", "-m", f"pipelines.evaluate.{verb}", *trained.asked])


def lines(entries: Mapping[str, Entry]) -> list[str]:
    """The table as aligned plain lines."""
    result, width = [], max(34, *map(len, entries))
    for name, one in entries.items():
        error = "" if one["se"] is None else f" ± {one['se']:.2f}"
        by_alphabet = "" if one["se_by_alphabet"] is None else f" (by alphabet ± {one['se_by_alphabet']:.2f})"
        result.append(f"  {name:<{width}} {one['value']:9.2f}{error}{by_alphabet} {one['unit']}")
    return result
