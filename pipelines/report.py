"""Write the run's report and print the table of what came out."""

from __future__ import annotations

from pathlib import Path

from pipelines.artifacts.measurements import bound_rows, read_json, read_measurement
from pipelines.artifacts.trained_model import TrainedModel, load_trained_model
from pipelines.cli.command import RecipeOption, SetOption, run


def report(recipe: RecipeOption = None, settings: SetOption = None) -> None:
    """Write artifacts/<recipe>/report/report.html, attach it to the run and print the final table."""
    from pipelines.artifacts.report_page import write_report
    from pipelines.tracking import runs

    trained = load_trained_model(recipe, settings or ())
    client = runs.connect()
    try:
        tags = client.get_run(runs.id_on_server(client, trained.run["run_id"])).data.tags
    except Exception as error:
        raise runs.failure(client.tracking_uri, error) from None
    path = write_report(trained, tags)
    _print_bounds(trained)
    _print_places(trained, path)
    runs.attach(trained.run["run_id"], path, "report")


def _print_bounds(trained: TrainedModel) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    measured, metrics = read_measurement(trained)
    console = Console(highlight=False)
    table = Table(box=box.ROUNDED if console.is_terminal else None)
    table.add_column(f"{measured['split']}/{measured['binarise']}, {measured['images']:,} images")
    table.add_column("nats per image", justify="right")
    rows = bound_rows(metrics)
    errors = {"se": "± SE", "se_by_alphabet": "± SE by alphabet"}
    shown = [key for key in errors if any(row[key] is not None for row in rows)]
    for key in shown:
        table.add_column(errors[key], justify="right")
    for row in rows:
        cells = ("" if row[key] is None else f"{row[key]:.2f}" for key in shown)
        table.add_row(row["name"], f"{row['value']:.2f}", *cells)
    console.print(f"\n{trained.recipe.name}: {trained.recipe.description}", markup=False, soft_wrap=True)
    console.print(table)


def _print_places(trained: TrainedModel, path: Path) -> None:
    """Registration, where the report lies, how to see the run: whole, to be copied, and so not through rich."""
    from pipelines.artifacts.report_page import view_command
    from pipelines.tracking import runs

    registered = "no"
    result = read_json(trained.places.register / "register.json")
    if result and result["version"] is None:
        registered = f"no: {result['reason']}"
    elif result:
        place = f"promoted to {result['alias']}" if result["promoted"] else "not promoted"
        registered = f"{result['name']} version {result['version']}, {place}: {result['reason']}"
    print(f"registered: {registered}")
    print(f"report:     {path}")
    print(f"runs:       {view_command(runs.tracking_uri())}")


if __name__ == "__main__":
    run(report)
