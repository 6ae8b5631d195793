"""Retrain if data, code or settings changed since the champion was made; what a schedule calls."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.artifacts.places import places
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.signals import raise_on_stop
from pipelines.cli.subprocesses import dvc_recipes, run_line
from pipelines.recipes import load_recipe
from pipelines.register import summary
from pipelines.tracking import lineage
from seqgen.core.errors import BadInput, OperationalError, SeqgenError, StoppedEarly
from seqgen.data.manifest import read_manifest
from seqgen.settings import Recipe

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

LOCK = Path(".seqgen/retrain.lock")
ForceOption = Annotated[bool, typer.Option("--force", help="Run the line even if nothing changed.")]


def retrain(recipe: RecipeOption = None, settings: SetOption = None, force: ForceOption = False) -> None:
    """Retrain if the manifest, the code of seqgen and data_prep, or the settings are not the champion's.

    Without --recipe, all that params.yaml names. Exit 0 whether promoted or not; one retraining at a time: a
    second one exits 0 and names the first.
    """
    raise_on_stop()
    names = [recipe] if recipe else dvc_recipes()
    if not names:
        raise BadInput("no --recipe given, and this is no DVC project whose params.yaml names recipes")
    recipes = {name: load_recipe(name, settings or ()) for name in names}
    with sole(LOCK) as (descriptor, holder):
        if descriptor is None:
            print(f"already running (holder {holder})")
            return
        first: SeqgenError | None = None
        for name, resolved in recipes.items():
            try:
                _retrained(name, resolved, settings or [], force, (descriptor,))
            except StoppedEarly:
                raise
            except SeqgenError as error:  # one recipe's trouble is not the next one's
                if first is not None:
                    print(f"error: {error}", file=sys.stderr)
                first = first or error
        if first is not None:
            raise first


@contextlib.contextmanager
def sole(path: Path) -> Iterator[tuple[int | None, str]]:
    """Hold the lock `path` and yield (its descriptor, ""), or (None, who holds it).

    The kernel frees it with the last process that has the descriptor: a dead holder needs no taking over, and
    children given the descriptor keep the lock while they live.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        stream.seek(0)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None, stream.read().strip() or "unknown"
            return
        stream.truncate(0)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        stream.write(f"pid {os.getpid()} on {platform.node()} since {now}\n")
        stream.flush()
        yield stream.fileno(), ""


def _retrained(name: str, recipe: Recipe, settings: list[str], force: bool, keep: tuple[int, ...]) -> None:
    """`_retrain`, with an error of the tracking server as OperationalError."""
    from mlflow.exceptions import MlflowException

    from pipelines.tracking import runs

    try:
        _retrain(name, recipe, settings, force, keep)
    except MlflowException as error:
        raise OperationalError(f"{name}: {runs.explain(runs.tracking_uri(), error)}") from None


def _retrain(name: str, recipe: Recipe, settings: list[str], force: bool, keep: tuple[int, ...]) -> None:
    from pipelines.registry import versions
    from pipelines.tracking import runs

    client, model, where = runs.connect(), recipe.register_.name, places(recipe)
    champion = versions.by_alias(client, model, versions.CHAMPION)
    if champion is None:
        print(f"{model} has no champion yet")
    else:
        run_line(name, "shard", settings, keep=keep)
        state = _state(recipe, where.shards)
        changed = changes(state, champion)
        for line in changed:
            print(f"since champion version {champion.version} was made, {line}")
        newest = versions.by_alias(client, model, versions.CANDIDATE)
        if not force and not changed:
            print(
                f"nothing to do: champion version {champion.version} is made of this data, code and settings"
            )
            return
        if not force and newest is not None and not changes(state, newest):
            verdict = f"{newest.tags.get('promotion')}: {newest.tags.get('promotion_reason')}"
            print(f"nothing to do: version {newest.version} is made of all this already ({verdict})")
            return
    before = _result(where.register)
    # without a champion (another tracking server) products that DVC takes for up to date are not enough
    run_line(name, "report", settings, force=force or champion is None, keep=keep)
    after = _result(where.register)
    if after is None or after == before:
        print("no new version: the line gives what is registered already (`--force` runs every stage of it)")
    else:
        print(summary(after))


def _state(recipe: Recipe, shards: Path) -> dict[str, str]:
    return {
        "manifest_digest": read_manifest(shards).digest,
        "code_digest": lineage.code_digest(),
        "request_digest": lineage.request_digest(recipe),
    }


_WORDS = {"manifest_digest": "data", "code_digest": "code", "request_digest": "settings"}


def changes(state: dict[str, str], version: ModelVersion) -> list[str]:
    """What differs between `state` and what `version` was made from, a line each."""
    found = []
    for key, now in state.items():
        then = version.tags.get(lineage.PREFIX + key, "unknown")
        if then != now:
            found.append(f"{_WORDS[key]} changed ({key.replace('_', ' ')} {then[:12]} -> {now[:12]})")
    return found


def _result(directory: Path) -> dict[str, Any] | None:
    try:
        return json.loads((directory / "register.json").read_text())
    except FileNotFoundError:
        return None


if __name__ == "__main__":
    run(retrain)
