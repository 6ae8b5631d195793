"""The report of a run: one HTML file that needs nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from pipelines.artifacts.findings import contents
from pipelines.artifacts.trained_model import TrainedModel
from pipelines.tracking import runs
from seqgen.core.files import write_bytes


def write_report(trained: TrainedModel, tags: Mapping[str, str]) -> Path:
    """Render what the stages before left, with the `tags` of the training's run for its lineage.

    Raises BadInput if the model was not evaluated.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
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


def view_command(uri: str) -> str:
    """What to type, or to open, to look at the runs of a tracking server."""
    if uri.startswith("sqlite:"):
        return f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
    return runs.redact(uri)
