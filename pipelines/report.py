"""Write the run's report, one HTML file that needs nothing else, and end with the table of what came out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from data_prep.errors import OperationalError
from data_prep.files import write_bytes
from pipelines.support.findings import bound_rows, contents, evaluation, read_json
from pipelines.support.trained import Trained, load_trained
from pipelines.support.verb import RecipeOption, SetOption, run


def report(recipe: RecipeOption = None, settings: SetOption = None) -> None:
    """Write artifacts/<recipe>/report/report.html, attach it to the run and print the final table."""
    trained = load_trained(recipe, settings or ())

    from pipelines.support import tracking

    client = tracking.connect()
    try:
        tags = client.get_run(trained.run["run_id"]).data.tags
    except Exception as error:
        raise OperationalError(tracking.explain(client.tracking_uri, error)) from None
    path = write_report(trained, tags)
    print_summary(trained, path)
    if not tracking.attach(trained.run["run_id"], path, "report"):
        raise OperationalError(f"the tracking server did not take the report; it is kept in {path}")


def write_report(trained: Trained, tags: Mapping[str, str]) -> Path:
    """Render what the stages before left, with the `tags` of the training's run for its lineage.

    Raises BadInput if the model was not evaluated.
    """
    import jinja2

    from pipelines.support import tracking

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "support" / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(
        contents(trained, tags), view=view_command(tracking.tracking_uri()), experiment=tracking.EXPERIMENT
    )
    path = trained.places.report / "report.html"
    write_bytes(path, page.encode())
    return path


def print_summary(trained: Trained, path: Path) -> None:
    """How a run ends: bounds, registration, where the report lies, how to see the run."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from pipelines.support import tracking

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
    print(f"runs:       {view_command(tracking.tracking_uri())}")


def view_command(uri: str) -> str:
    """What to type, or to open, to look at the runs of a tracking server."""
    from pipelines.support.tracking import redact

    return f"mlflow ui --backend-store-uri {shlex.quote(uri)}" if uri.startswith("sqlite:") else redact(uri)


if __name__ == "__main__":
    run(report)
