"""Retrain if data, code or settings changed; for a schedule."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.artifacts.measurements import read_json
from pipelines.artifacts.places import places
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.signals import raise_on_stop
from pipelines.cli.subprocesses import dvc_recipes, run_stages
from pipelines.recipes import load_recipe
from pipelines.register import summary
from seqgen.core.errors import BadInput, OperationalError, SeqgenError, StoppedEarly
from seqgen.core.locks import Taken, held
from seqgen.data.manifest import read_manifest
from seqgen.settings import Recipe

LOCK = Path(".seqgen/retrain.lock")
ForceOption = Annotated[bool, typer.Option("--force", help="Run every stage even if nothing changed.")]


def retrain(recipe: RecipeOption = None, settings: SetOption = None, force: ForceOption = False) -> None:
    """Retrain if the manifest, the code that decides the numbers, or the settings are not the champion's.

    Without --recipe, all that params.yaml names. Exit 0 whether promoted or not; one retraining at a time: a
    second one exits 0 and names the first.
    """
    raise_on_stop()
    names = [recipe] if recipe else dvc_recipes()
    if not names:
        raise BadInput("no --recipe given, and this is no DVC project whose params.yaml names recipes")
    recipes = {name: load_recipe(name, settings or ()) for name in names}
    with contextlib.ExitStack() as lock:
        try:
            descriptor = lock.enter_context(held(LOCK))
        except Taken as taken:
            print(f"already running (holder {taken.holder})")
            return
        _retrain_all(recipes, settings or [], force, descriptor)


def _retrain_all(recipes: dict[str, Recipe], settings: list[str], force: bool, lock: int) -> None:
    """One after the other; one recipe's trouble is not the next one's. Raises the first error at the end."""
    from pipelines.tracking import runs

    first: SeqgenError | None = None
    for name, recipe in recipes.items():
        try:
            _retrain_one(name, recipe, settings, force, lock)
            continue
        except StoppedEarly:
            raise
        except SeqgenError as caught:
            error = caught
        except runs.server_errors() as caught:
            error = OperationalError(f"{name}: {runs.explain(runs.tracking_uri(), caught)}")
        if first is not None:
            print(f"error: {error}", file=sys.stderr)
        first = first or error
    if first is not None:
        raise first


def _retrain_one(name: str, recipe: Recipe, settings: list[str], force: bool, lock: int) -> None:
    """Run the stages if the recipe's champion is not of today; their processes keep the descriptor `lock`."""
    from pipelines.registry import staleness, versions
    from pipelines.tracking import lineage, runs

    client, model = runs.connect(), recipe.register_.name
    champion = versions.by_alias(client, model, versions.CHAMPION)
    if champion is None:
        print(f"{model} has no champion yet")
    else:
        run_stages(name, "shard", settings, keep=(lock,))
        found = staleness.compare(client, champion, recipe, read_manifest(places(recipe).shards))
        for line in found.changed:
            print(line)
        if found.current and not force:
            print(f"nothing to do: {found.current}")
            return
    result = places(recipe).register / "register.json"
    before = read_json(result)
    if before and before["version"] is None:  # an experiment's, which DVC would take for up to date
        result.unlink()
    # DVC may take for up to date the products of another tracking server, and what a plugin's files decide
    force = force or champion is None or bool(lineage.plugins(recipe))
    run_stages(name, "report", settings, force=force, keep=(lock,))
    after = read_json(result)
    if after is None or after == before:
        print("no new version: the stages give what is registered already (`--force` runs every one)")
    else:
        print(summary(after))


if __name__ == "__main__":
    run(retrain)
