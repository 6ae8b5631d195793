"""Write the run's report, one HTML file that needs nothing else, and end with the table of what came out."""

from __future__ import annotations

import base64
import csv
import json
import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import BadInput, OperationalError
from data_prep.files import write_bytes
from pipelines.recipe import load_recipe
from pipelines.trained import Trained, load_trained
from pipelines.verb import RecipeOption, SetOption, run
from seqgen.config import Recipe, flatten

if TYPE_CHECKING:
    from data_prep.manifest import Manifest

_VERBS = ("fetch", "shard", "tune", "train", "evaluate", "register", "report")
_SHEETS = {
    "samples": "Samples: the means of p(x | c_T), not selected.",
    "reconstructions": "Held-out images and, below each, what is drawn of it from the posterior.",
    "canvas": "The canvas from the first step to the last, with the windows of attention.",
    "exemplars": "New exemplars: in the red frame one held-out image of each concept, below it samples given it.",
}


def report(recipe: RecipeOption = None, settings: SetOption = None) -> None:
    """Write artifacts/<recipe>/report/report.html, attach it to the run and print the final table."""
    trained = load_trained(recipe, settings or ())
    path = write_report(trained)
    print_summary(trained, path)
    from pipelines import tracking

    tracking.connect()
    if not tracking.attach(trained.run["run_id"], path, "report"):
        raise OperationalError(f"the tracking server did not take the report; it is kept in {path}")


def write_report(trained: Trained) -> Path:
    """Render the report from what the stages before left. Raises BadInput if the model was not evaluated."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(contents(trained))
    path = trained.places.report / "report.html"
    write_bytes(path, page.encode())
    return path


def contents(trained: Trained) -> dict[str, Any]:
    """Everything the template shows."""
    from pipelines import lineage, tracking

    places, recipe = trained.places, trained.recipe
    manifest = trained.manifest()
    measured, metrics = evaluation(trained)
    history = _history(places.train / "history.csv")
    best = _json(places.search / "best.json") or {}
    tags = {
        key.removeprefix(lineage.PREFIX): value
        for key, value in lineage.lineage_tags(recipe, manifest).items()
    }
    found = best.get("settings", {})
    return {
        "recipe": recipe,
        "settings": flatten(recipe.model_dump(mode="json", by_alias=True, exclude_none=True)),
        "facts": _facts(recipe, manifest, trained.run, history),
        "budget": _budget(recipe, trained.run, history),
        "measured": measured,
        "metrics": metrics,
        "bounds": bound_rows(metrics),
        "curves": _curves(history, recipe, places.evaluate / "kl_per_step.csv"),
        "sheets": [
            {"caption": caption, "data": _data_uri(path.read_bytes(), "image/png")}
            for name, caption in _SHEETS.items()
            if (path := places.evaluate / f"{name}.png").is_file()
        ],
        "trials": _trials(places.search / "trials.csv"),
        "found": found,
        "register": _json(places.register / "register.json"),
        "run": trained.run,
        "lineage": _lineage(trained, manifest, tags),
        "commit": tags["git_commit"],
        "commands": _commands(recipe, found),
        "view": view_command(tracking.tracking_uri()),
        "experiment": tracking.EXPERIMENT,
    }


def evaluation(trained: Trained) -> tuple[dict[str, Any], dict[str, float]]:
    """evaluation.json and the metrics it names. Raises BadInput if they are not those of the trained model."""
    directory = trained.places.evaluate
    measured, metrics = _json(directory / "evaluation.json"), _json(directory / "metrics.json")
    if measured is None or metrics is None:
        name = trained.recipe.name
        raise BadInput(f"{directory}: not evaluated yet; run `python -m pipelines.evaluate --recipe {name}`")
    return measured, metrics[measured["split"]][measured["binarise"]]


def bound_rows(metrics: dict[str, float]) -> list[dict[str, Any]]:
    """The table of bounds: name, value and standard error (None where none was made) in nats, meaning."""
    weighted = next((key for key in metrics if key.startswith("iwae_") and f"{key}_se" in metrics), "")
    k, images = weighted.removeprefix("iwae_"), int(metrics.get(f"{weighted}_images", 0))
    wanted = {
        "bound": (
            "F",
            "free energy, a bound on the negative log-likelihood: F = KL - log-likelihood; lower is better",
        ),
        "log_likelihood": ("log-likelihood", "E[log p(x | z)], how well the canvas explains the image"),
        "kl": ("KL", "KL[q(z | x) || p(z)], summed over the T steps"),
        weighted: (
            f"IWAE-{k}",
            f"-L_{k}, the tighter importance-weighted bound with {k} samples, measured on {images:,} images and "
            "carried over to all by their difference to F",
        ),
        "bound_shuffled_context": ("F, foreign context", "the same with x' of another concept"),
        "context_value": ("value of context", "what knowing x' is worth: the paired difference of the two"),
    }
    return [
        {"name": name, "value": metrics[key], "se": metrics.get(f"{key}_se"), "meaning": meaning}
        for key, (name, meaning) in wanted.items()
        if key in metrics
    ]


def print_summary(trained: Trained, path: Path) -> None:
    """The final table: bounds, registration, where the report lies, how to see the run. Plain if not a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from pipelines import tracking

    measured, metrics = evaluation(trained)
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(
        title=f"{trained.recipe.name}: {measured['split']}/{measured['binarise']}, {measured['images']:,} images",
        box=box.ROUNDED if console.is_terminal else None,
        title_justify="left",
    )
    table.add_column("nats per image")
    table.add_column("", justify="right")
    table.add_column("± SE", justify="right")
    for row in bound_rows(metrics):
        error = "" if row["se"] is None else f"{row['se']:.2f}"
        table.add_row(row["name"], f"{row['value']:.2f}", error)
    console.print(table)
    register = _json(trained.places.register / "register.json")
    if register:
        place = f"promoted to {register['alias']}" if register["promoted"] else "not promoted"
        print(f"registered: {register['name']} version {register['version']}, {place}: {register['reason']}")
    else:
        print("registered: no")
    print(f"report:     {path}")
    print(f"runs:       {view_command(tracking.tracking_uri())}")


def view_command(uri: str) -> str:
    """What to type, or to open, to look at the runs of a tracking server."""
    from pipelines.tracking import redact

    return f"mlflow ui --backend-store-uri {shlex.quote(uri)}" if uri.startswith("sqlite:") else redact(uri)


def _facts(
    recipe: Recipe, manifest: Manifest, run: dict[str, Any], history: dict[str, list[float]]
) -> list[tuple]:
    budget = _budget(recipe, run, history)
    model = recipe.model
    conditional = "given a context image x'" if model.conditional else "unconditional"
    return [
        (
            "data",
            f"{manifest.title}, {manifest.height} x {manifest.width}, binarisation {recipe.data.binarise}",
        ),
        ("split", ", ".join(f"{name} {part.images:,}" for name, part in manifest.splits.items()) + " images"),
        (
            "model",
            f"T = {model.steps}, {model.latents} latents a step, LSTM {model.hidden}, attention {model.attention}, "
            f"canvas {model.canvas}, {conditional}",
        ),
        (
            "epochs",
            f"{budget['epochs']} of {recipe.train.epochs}, {run['steps']:,} steps of {recipe.train.batch}",
        ),
        ("images seen", f"{budget['images']:,}"),
        ("time", budget["time"]),
        ("workers", f"{recipe.train.workers}"),
    ]


def _budget(recipe: Recipe, run: dict[str, Any], history: dict[str, list[float]]) -> dict[str, Any]:
    seconds = math.fsum(value for value in history.get("seconds", []) if math.isfinite(value))
    time = f"{seconds:.0f} seconds" if seconds < 600 else f"{seconds / 60:.0f} minutes"
    return {
        "epochs": run["epochs"],
        "images": run["steps"] * recipe.train.batch,
        "time": f"{time} of training",
    }


def _lineage(trained: Trained, manifest: Manifest, tags: dict[str, str]) -> list[tuple[str, str]]:
    return [
        ("settings digest", trained.run["settings_digest"]),
        ("manifest digest", manifest.digest),
        *((f"source {source.name}", f"sha256 {source.sha256}") for source in manifest.sources),
        ("git commit", tags["git_commit"]),
        ("code digest", tags["code_digest"]),
        *((key.removeprefix("version."), value) for key, value in tags.items() if key.startswith("version.")),
        ("MLflow run", trained.run["run_id"]),
    ]


def _commands(recipe: Recipe, found: dict[str, Any]) -> list[str]:
    """The verbs in order, with every setting that is neither the recipe's nor the search's."""
    try:
        base = load_recipe(recipe.name, found=found)
    except BadInput:  # the recipe came from a file elsewhere
        return [f"python -m pipelines.{verb} --recipe <{recipe.name}.yaml>" for verb in _VERBS]
    usual = flatten(base.model_dump(mode="json", by_alias=True))
    changed = {
        key: value
        for key, value in flatten(recipe.model_dump(mode="json", by_alias=True)).items()
        if usual.get(key) != value
    }
    options = "".join(f" --set {shlex.quote(f'{key}={json.dumps(value)}')}" for key, value in changed.items())
    return [f"python -m pipelines.{verb} --recipe {recipe.name}{options}" for verb in _VERBS]


def _curves(history: dict[str, list[float]], recipe: Recipe, kl_path: Path) -> list[dict[str, str]]:
    from seqgen.evaluation import curves

    result = []
    if history.get("epoch"):
        svg = curves.bound_curves(history, f"valid/{recipe.data.binarise}/free_energy")
        result.append({"title": "The bound F while training, against epochs and minutes.", "data": _svg(svg)})
    kl = _history(kl_path).get("kl")
    if kl:
        title = "KL of each step, mean over held-out images: where the drawing takes up information."
        result.append({"title": title, "data": _svg(curves.kl_bars(kl))})
    return result


def _history(path: Path) -> dict[str, list[float]]:
    """The columns of a CSV of numbers, NaN where a cell is empty; no columns if there is no file."""
    if not path.is_file():
        return {}
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {key: [float(row[key] or "nan") for row in rows] for key in (rows[0] if rows else {})}


def _trials(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    if not rows:
        return None
    columns = list(rows[0])
    numeric = [name for name in columns if all(_is_number(row[name]) for row in rows)]
    shown = [{name: _short(row[name]) if name in numeric else row[name] for name in columns} for row in rows]
    return {"columns": columns, "numeric": numeric, "rows": shown}


def _is_number(text: str | None) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True


def _short(text: str | None) -> str:
    return "" if not text else text if "." not in text else f"{float(text):.5g}"


def _json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _svg(content: bytes) -> str:
    return _data_uri(content, "image/svg+xml")


if __name__ == "__main__":
    run(report)
