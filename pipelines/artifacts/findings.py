"""What the stages left, gathered for the report: bounds, curves, pictures, trials, lineage, commands."""

from __future__ import annotations

import base64
import csv
import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.artifacts import gallery
from pipelines.artifacts.gallery import read_gallery
from pipelines.artifacts.measurements import bound_rows, read_json, read_measurement
from pipelines.artifacts.one_shot import read_tables
from pipelines.artifacts.trained_model import TrainedModel
from pipelines.cli.verbs import STAGES
from pipelines.recipes import load_recipe
from pipelines.tracking.lineage import PREFIX
from seqgen.core.errors import BadInput
from seqgen.data.manifest import Manifest
from seqgen.settings import Recipe, flatten

_SHEETS = {
    "samples": "Samples, not selected.",
    "reconstructions": "Held-out images and, below each, what is drawn of it from the posterior.",
    "canvas": "The canvas from the first step to the last, with the windows of attention.",
    "exemplars": "New exemplars: in the red frame one image of each held-out concept, below it samples.",
}
_KINDS = {".png": "image/png", ".gif": "image/gif", ".svg": "image/svg+xml"}
History = dict[str, list[float]]


def contents(trained: TrainedModel, tags: Mapping[str, str]) -> dict[str, Any]:
    """Everything the report shows; `tags` are those of the run, made when it was trained.

    Raises BadInput if the model was not evaluated.
    """
    places, recipe = trained.places, trained.recipe
    manifest = trained.manifest()
    measured, metrics = read_measurement(trained)
    history = _columns(places.train / "history.csv")
    budget = _budget(recipe, trained.run, history)
    tags = {key.removeprefix(PREFIX): value for key, value in tags.items() if key.startswith(PREFIX)}
    found = (read_json(places.search / "best.json") or {}).get("settings", {})
    return {
        "recipe": recipe,
        "settings": flatten(_tree(recipe)),
        "facts": _facts(recipe, manifest, trained.run, budget),
        "budget": budget,
        "measured": measured,
        "metrics": metrics,
        "bounds": bound_rows(metrics),
        "curves": _curves(history, recipe, places.evaluate / "kl_per_step.csv"),
        "sheets": [
            {"caption": caption, "data": _data_uri(path.read_bytes(), "image/png")}
            for name, caption in _SHEETS.items()
            if (path := places.pictures / f"{name}.png").is_file()
        ],
        "learning": _learning(places.train / gallery.FILE_NAME),
        "one_shot": one_shot(trained),
        "trials": _trials(places.search / "trials.csv"),
        "found": found,
        "register": read_json(places.register / "register.json"),
        "run": trained.run,
        "lineage": _lineage(trained, manifest, tags),
        "commit": tags.get("git_commit", "none"),
        "commands": commands(recipe, found),
    }


def one_shot(trained: TrainedModel) -> list[dict[str, Any]]:
    """The tables of one-shot evaluation that were measured on these weights, each with its picture, if it has one."""
    shown = []
    for table in read_tables(trained):
        name = table["about"].get("picture")
        path = trained.places.one_shot / (name or "")
        picture = _data_uri(path.read_bytes(), _KINDS[path.suffix]) if name and path.is_file() else None
        shown.append({**table, "picture": picture})
    return shown


def commands(recipe: Recipe, found: dict[str, Any]) -> list[str]:
    """The stages in order, as typed, with every setting that is neither the recipe's nor the search's."""
    try:
        base = flatten(_tree(load_recipe(recipe.name, found=found)))
    except BadInput:  # the recipe is a file elsewhere, which is not known here
        return [f"python -m {verb.module} --recipe path/to/{recipe.name}.yaml" for verb in STAGES]
    now = flatten(_tree(recipe))
    changed = {key: value for key, value in now.items() if base.get(key) != value}
    changed |= {key: None for key in base if key not in now}
    options = "".join(f" --set {shlex.quote(f'{key}={json.dumps(value)}')}" for key, value in changed.items())
    return [f"python -m {verb.module} --recipe {recipe.name}{options}" for verb in STAGES]


def _tree(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", by_alias=True, exclude_none=True)


def _facts(
    recipe: Recipe, manifest: Manifest, run: dict[str, Any], budget: dict[str, Any]
) -> list[tuple[str, str]]:
    model = recipe.model
    kind = "given a context image x'" if model.conditional else "unconditional"
    slots = ", ".join(f"{each.slot} {each.name}" for each in model.kinds())
    splits = ", ".join(f"{name} {part.images:,}" for name, part in manifest.splits.items())
    steps = f"{run['steps']:,} steps of {recipe.train.batch} images"
    return [
        ("data", f"{manifest.title}, binarisation {recipe.data.binarise}"),
        ("images", splits),
        ("model", f"T = {model.steps}, {model.latents} latents a step, D = {model.hidden}, {slots}; {kind}"),
        (
            "training",
            f"{budget['epochs']} of {recipe.train.epochs} epochs, {steps}, seed {recipe.train.seed}",
        ),
        ("images seen", f"{budget['images']:,}"),
        ("time", f"{budget['time']} on {recipe.train.workers} workers"),
    ]


def _budget(recipe: Recipe, run: dict[str, Any], history: History) -> dict[str, Any]:
    seconds = math.fsum(value for value in history.get("seconds", []) if math.isfinite(value))
    time = f"{seconds:.0f} seconds" if seconds < 600 else f"{seconds / 60:.0f} minutes"
    return {"epochs": run["epochs"], "images": run["steps"] * recipe.train.batch, "time": time}


def _lineage(trained: TrainedModel, manifest: Manifest, tags: Mapping[str, str]) -> list[tuple[str, str]]:
    return [
        ("settings digest", trained.run["settings_digest"]),
        ("manifest digest", manifest.digest),
        *((f"source {source.name}", f"sha256 {source.sha256}") for source in manifest.sources),
        ("git commit", tags.get("git_commit", "none")),
        ("code digest", tags.get("code_digest", "none")),
        ("Ray job", tags.get("ray_job", "none")),
        *((key.removeprefix("version."), tags[key]) for key in tags if key.startswith("version.")),
        ("MLflow run", trained.run["run_id"]),
    ]


def _curves(history: History, recipe: Recipe, kl_path: Path) -> list[dict[str, str]]:
    from seqgen.drawing import curves

    drawn = []
    if history:
        title = "The bound F while training, against epochs and minutes."
        drawn.append((title, curves.bound_curves(history, recipe.data.held_out_metric)))
    if kl := _columns(kl_path).get("kl"):
        title = "KL of each step, mean over the held-out images: where the drawing takes up information."
        drawn.append((title, curves.kl_bars(kl)))
    return [{"title": title, "data": _data_uri(svg, "image/svg+xml")} for title, svg in drawn]


def _learning(path: Path) -> dict[str, str] | None:
    """What it drew while it learned, as a strip and as an animation; None if it was not looked at."""
    import numpy as np

    from seqgen.drawing.learning import film, strip
    from seqgen.drawing.pictures import png

    seen = read_gallery(path)
    if not seen.drawn:
        return None
    epochs, drawn = list(seen.drawn), np.stack(list(seen.drawn.values()))
    return {
        "strip": _data_uri(png(strip(epochs, drawn, seen.context)), "image/png"),
        "film": _data_uri(film(epochs, drawn, seen.context), "image/gif"),
    }


def _columns(path: Path) -> History:
    """The columns of a CSV of numbers, NaN where a cell is empty; no columns if there is no file."""
    rows = _rows(path)
    return {key: [float(row[key] or "nan") for row in rows] for key in (rows[0] if rows else {})}


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def _trials(path: Path) -> dict[str, Any] | None:
    """The search's table as it is, numbers shortened."""
    rows = _rows(path)
    if not rows:
        return None
    columns = list(rows[0])
    numeric = [name for name in columns if all(_is_number(row[name]) for row in rows)]
    shown = [
        {name: f"{float(text):.6g}" if text and name in numeric else text for name, text in row.items()}
        for row in rows
    ]
    return {"columns": columns, "numeric": numeric, "rows": shown}


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
