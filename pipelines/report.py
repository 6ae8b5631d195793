"""Write the run's report, one HTML file that needs nothing else, and end with the table of what came out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from pipelines.artifacts.findings import bound_rows, contents, evaluation, read_json
from pipelines.artifacts.trained_model import TrainedModel, load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run
from seqgen.core.errors import OperationalError
from seqgen.core.files import write_bytes


def report(recipe: RecipeOption = None, settings: SetOption = None) -> None:
    """Write artifacts/<recipe>/report/report.html, attach it to the run and print the final table."""
    trained = load_trained_model(recipe, settings or ())

    from pipelines.tracking import runs

    client = runs.connect()
    try:
        tags = client.get_run(trained.run["run_id"]).data.tags
    except Exception as error:
        raise OperationalError(runs.explain(client.tracking_uri, error)) from None
    path = write_report(trained, tags)
    print_summary(trained, path)
    if not runs.attach(trained.run["run_id"], path, "report"):
        raise OperationalError(f"the tracking server did not take the report; it is kept in {path}")


def write_report(trained: TrainedModel, tags: Mapping[str, str]) -> Path:
    """Render what the stages before left, with the `tags` of the training's run for its lineage.

    Raises BadInput if the model was not evaluated.
    """
    import jinja2

    from pipelines.tracking import runs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "artifacts" / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(
        contents(trained, tags), view=view_command(runs.tracking_uri()), experiment=runs.EXPERIMENT
    )
    path = trained.places.report / "report.html"
    write_bytes(path, page.encode())
    return path


def print_summary(trained: TrainedModel, path: Path) -> None:
    """How a run ends: bounds, registration, where the report lies, how to see the run."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from pipelines.tracking import runs

    measured, metrics = evaluation(trained)
    console = Console(highlight=False)
    table = Table(box=box.ROUNDED if console.is_terminal else None)
    table.add_column(f"{measured['split']}/{measured['binarise']}, {measured['images']:,} images")
    table.add_column("nats per image", justify="right")
    table.add_column("± SE", justify="right")
    for row in bound_rows(metrics):
        error = "" if row["se"] is None else f"{row['se']:.2f}"
        table.add_row(row["name"], f"{row['value']:.2f}", error)
    console.print(f"\n{trained.recipe.name}: {trained.recipe.description}", markup=False, soft_wrap=True)
    console.print(table)

    register = read_json(trained.places.register / "register.json")
    registered = "no"
    if register:
        place = f"promoted to {register['alias']}" if register["promoted"] else "not promoted"
        registered = f"{register['name']} version {register['version']}, {place}: {register['reason']}"
    # Not through rich: paths and commands must come out whole, to be copied.
    print(f"registered: {registered}")
    print(f"report:     {path}")
    print(f"runs:       {view_command(runs.tracking_uri())}")


def view_command(uri: str) -> str:
    """What to type, or to open, to look at the runs of a tracking server."""
    from pipelines.tracking.runs import redact

    return f"mlflow ui --backend-store-uri {shlex.quote(uri)}" if uri.startswith("sqlite:") else redact(uri)


if __name__ == "__main__":
    run(report)
