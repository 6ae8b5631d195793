"""Retrain if data, code or settings changed; for a schedule."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from pipelines.artifacts.measurements import read_json
from pipelines.artifacts.places import places
from pipelines.cli.command import RecipeOption, SetOption, run
from pipelines.cli.signals import raise_on_stop
from pipelines.cli.subprocesses import dvc_recipes, run_stages
from pipelines.cluster.storage import shared
from pipelines.recipes import load_recipe
from pipelines.register import summary
from pipelines.retraining.alert import alert
from pipelines.retraining.record import Record, remembered_in, seconds_of
from pipelines.storage.lease import leased
from seqgen.core.errors import BadInput, OperationalError, SeqgenError, StoppedEarly, one_line, redact
from seqgen.core.locks import Taken, held
from seqgen.data.manifest import read_manifest
from seqgen.settings import Recipe

LOCK = Path(".seqgen/retrain.lock")
ForceOption = Annotated[bool, typer.Option("--force", help="Run every stage even if nothing changed.")]
PeriodOption = Annotated[
    str | None, typer.Option("--period", help="At most one retraining in each such span of UTC: 12h, 1d.")
]
OnFailureOption = Annotated[
    str | None,
    typer.Option(
        "--on-failure", help="A command that gets a JSON on its input. Default: SEQGEN_ALERT_COMMAND."
    ),
]
AlertAfterOption = Annotated[int, typer.Option("--alert-after", min=1, help="Failures in a row before that.")]
LeaseOption = Annotated[
    str, typer.Option("--lease", help="How long others wait for a dead holder, with a shared SEQGEN_STORAGE.")
]


class _Schedule(NamedTuple):
    """How a recipe's turn is taken. period, lease: seconds; on_failure: the command, called from alert_after on."""

    settings: list[str]
    force: bool
    period: int | None
    lease: int
    on_failure: str | None
    alert_after: int


def retrain(
    recipe: RecipeOption = None,
    settings: SetOption = None,
    force: ForceOption = False,
    period: PeriodOption = None,
    on_failure: OnFailureOption = None,
    alert_after: AlertAfterOption = 1,
    lease: LeaseOption = "2m",
) -> None:
    """Retrain if the manifest, the code that decides the numbers, or the settings are not the champion's.

    Without --recipe, all that params.yaml names. Exit 0 whether promoted or not; one retraining at a time: a
    second one exits 0 and names the first.
    """
    raise_on_stop()
    schedule = _Schedule(
        settings or [],
        force,
        seconds_of(period, "--period") if period else None,
        seconds_of(lease, "--lease"),
        on_failure or os.environ.get("SEQGEN_ALERT_COMMAND") or None,
        alert_after,
    )
    names = [recipe] if recipe else dvc_recipes()
    if not names:
        raise BadInput("no --recipe given, and this is no DVC project whose params.yaml names recipes")
    with contextlib.ExitStack() as lock:
        try:
            descriptor = lock.enter_context(held(LOCK))
        except Taken as taken:
            print(f"already running (holder {taken.holder})")
            return
        _retrain_all(names, schedule, descriptor)


def _retrain_all(names: list[str], schedule: _Schedule, lock: int) -> None:
    """One after the other; one recipe's trouble is not the next one's. Raises the first error at the end."""
    from pipelines.tracking import runs

    first: SeqgenError | None = None
    for name in names:
        known = Path(name).stem  # all that is known of a recipe that cannot be read
        try:
            recipe = load_recipe(name, schedule.settings)
            known = recipe.name
            _take_turn(name, recipe, schedule, lock)
            continue
        except SeqgenError as caught:
            error = caught
        except runs.server_errors() as caught:
            error = OperationalError(f"{name}: {runs.explain(runs.tracking_uri(), caught)}")
        except OSError as caught:  # a full disk, a program that cannot be started
            error = OperationalError(f"{name}: {one_line(caught) or type(caught).__name__}")
        _failed(known, error, schedule)
        if first is not None:
            print(f"error: {error}", file=sys.stderr)
        first = first or error
    if first is not None:
        raise first


def _take_turn(name: str, recipe: Recipe, schedule: _Schedule, lock: int) -> None:
    """Retrain a recipe if its turn has come: nobody has its lease, and one is due."""
    store = remembered_in(recipe.name)
    record = Record(store)
    with contextlib.ExitStack() as turn:
        if shared():
            try:
                turn.enter_context(leased(store, schedule.lease, LOCK))
            except Taken as taken:
                print(f"{recipe.name}: already running (holder {taken.holder})")
                return
        if schedule.period and (why := record.not_due(schedule.period)):
            print(f"nothing to do: {recipe.name} was {why}")
            return
        if began := record.interrupted():
            died = OperationalError(
                f"the retraining begun at {began} ended without a word: killed, or its machine"
            )
            print(f"warning: {recipe.name}: {died}", file=sys.stderr)
            _failed(recipe.name, died, schedule)
            record.give_up()
        with _written_down(record):
            _retrain_one(name, recipe, schedule, lock, record)
        for counted in {recipe.name, Path(name).stem}:  # the file's: from when it could not be read
            Record(remembered_in(counted)).forget_failures()


@contextlib.contextmanager
def _written_down(record: Record) -> Iterator[None]:
    """How the retraining ended that the block may begin."""
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(SeqgenError):  # what ended it is what is told
            record.end("stopped" if isinstance(error, StoppedEarly) else "failed")
        raise
    record.end("done")


def _retrain_one(name: str, recipe: Recipe, schedule: _Schedule, lock: int, record: Record) -> None:
    """Run the stages if the recipe's champion is not of today; their processes keep the descriptor `lock`."""
    from pipelines.registry import moves, staleness, versions
    from pipelines.tracking import lineage, runs

    settings, force = schedule.settings, schedule.force
    client, model = runs.connect(), recipe.register_.name
    champion = versions.by_alias(client, model, versions.CHAMPION)
    if champion is None:
        print(f"{model} has no champion yet")
    else:
        moves.settle(client, model)
        if recipe.data.source == "folder" and name in dvc_recipes():  # DVC does not see what arrived there
            run_stages(name, "fetch", settings, force=True, keep=(lock,))
        run_stages(name, "shard", settings, keep=(lock,))
        found = staleness.compare(client, champion, recipe, read_manifest(places(recipe).shards))
        for line in found.changed:
            print(line)
        if found.current and not force:
            print(f"nothing to do: {found.current}")
            return
    record.begin()
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


def _failed(recipe: str, error: SeqgenError, schedule: _Schedule) -> None:
    """Count a failure, and tell whom it concerns; what cannot be counted is told."""
    message, count = redact(str(error)), None
    with contextlib.suppress(SeqgenError):
        count = Record(remembered_in(recipe)).count_failure(message)
    if schedule.on_failure and (count is None or count >= schedule.alert_after):
        facts = {
            "recipe": recipe,
            "exit_code": error.exit_code,
            "message": message,
            "failures_in_a_row": count,
        }
        alert(schedule.on_failure, facts)


if __name__ == "__main__":
    run(retrain)
