"""Fetch the raw files of the recipe's set, verified, from a mirror or where they are published."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from pipelines.artifacts.places import places
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.signals import raise_on_stop
from pipelines.recipes import load_recipe

MirrorOption = Annotated[
    str | None,
    typer.Option(
        "--mirror",
        help="Ask here first: a folder, s3://bucket/prefix or https://host/path. Default: SEQGEN_MIRROR.",
    ),
]


def fetch(recipe: RecipeOption = None, settings: SetOption = None, mirror: MirrorOption = None) -> None:
    """Fetch the raw files of the recipe's set, verified, from a mirror or where they are published."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from data_prep.fetch import fetch as fetch_sources
    from data_prep.sources import RawFile

    raise_on_stop()
    resolved = load_recipe(recipe, settings or ())
    mirror = mirror or os.environ.get("SEQGEN_MIRROR") or None
    raw = places(resolved).raw
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, int] = {}

        def progress(file: RawFile, done: int, total: int | None) -> None:
            task = tasks.setdefault(file.path, -1)
            if task < 0:
                task = tasks[file.path] = bars.add_task(file.path)
            bars.update(task, completed=done, total=total, visible=done != total)  # type: ignore[arg-type]

        paths = fetch_sources([resolved.data.source], raw, mirror, notice=print, progress=progress)
    print(f"fetched {len(paths)} files to {os.path.relpath(raw)}")


if __name__ == "__main__":
    run(fetch)
