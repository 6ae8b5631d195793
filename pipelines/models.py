"""List and show registered models; move the champion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipelines.cli.command import run
from pipelines.cli.signals import raise_on_stop
from seqgen.core.errors import BadInput, OperationalError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

ActionArgument = Annotated[Literal["list", "show", "promote", "rollback"], typer.Argument()]
NameArgument = Annotated[str | None, typer.Argument(help="Name of a registered model; for all but list.")]
VersionArgument = Annotated[str | None, typer.Argument(help="A version's number or alias; for promote.")]
ForceOption = Annotated[
    bool,
    typer.Option("--force", help="Promote what is not shown to be better; its files are checked anyway."),
]


def models(
    action: ActionArgument,
    name: NameArgument = None,
    version: VersionArgument = None,
    force: ForceOption = False,
) -> None:
    """List the registered models, show one's versions and decisions, promote a version, or roll the champion back.

    promote compares the evaluations that both versions were registered with, as `register` does with its defaults,
    and exits 0 whether promoted or not. Before an alias moves the version is fetched and looked through.
    """
    from pipelines.tracking import runs

    raise_on_stop()
    if action != "list" and name is None:
        raise BadInput(f"models {action}: name a registered model; `seqgen models list` shows them")
    if (action == "promote") != (version is not None):
        raise BadInput(f"models {action}: {'name a version' if version is None else f'takes no {version}'}")
    if force and action != "promote":
        raise BadInput(f"models {action}: takes no --force")
    client = runs.connect()
    try:
        if action == "list":
            _list(client)
        elif action == "show":
            _show(client, name or "")
        elif action == "promote":
            _promote(client, name or "", version or "", force)
        else:
            _roll_back(client, name or "")
    except runs.server_errors() as error:
        raise runs.failure(client.tracking_uri, error) from None


def _list(client: MlflowClient) -> None:
    from pipelines.registry.provenance import bound
    from pipelines.registry.versions import CANDIDATE, CHAMPION
    from seqgen.serving.loading import known_models

    rows = [("name", "champion", "candidate", "bound of the champion")]
    for model in known_models(client):
        champion = model.aliases.get(CHAMPION)
        held_out = bound(client.get_model_version(model.name, champion).tags) if champion else ""
        aliases = (str(model.aliases.get(alias) or "-") for alias in (CHAMPION, CANDIDATE))
        rows.append((model.name, *aliases, held_out))
    if len(rows) == 1:
        print("the registry is empty")
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _show(client: MlflowClient, name: str) -> None:
    from pipelines.registry.provenance import bound
    from seqgen.serving.loading import known_model

    model = known_model(client, name)
    found = client.search_model_versions(f"name='{name}'")
    for version in sorted(found, key=lambda each: -int(each.version)):
        aliases = [
            alias for alias, number in sorted(model.aliases.items()) if str(number) == str(version.version)
        ]
        tags = version.tags
        print(f"version {version.version}{''.join(f' @{alias}' for alias in aliases)}: {bound(tags)}")
        print(f"  run {version.run_id}, commit {tags.get('seqgen.git_commit', 'unknown')}")
        if "promotion_reason" in tags:
            print(f"  {tags['promotion_reason']}")
        for line in tags.get("promotion_history", tags.get("promotion", "not judged")).splitlines():
            print(f"  {line}")
        for key in ("previous_champion", "replaced_by"):
            if tags.get(key, "none") != "none":
                print(f"  {key.replace('_', ' ')}: version {tags[key]}")


def _promote(client: MlflowClient, name: str, wanted: str, force: bool) -> None:
    from pipelines.registry import moves, promotion, versions

    version = _version(client, name, wanted)
    moves.settle(client, name)
    holder = versions.by_alias(client, name, versions.CHAMPION)
    if holder is not None and holder.version == version.version:
        print(f"{name} version {version.version} is champion already")
        return
    if force:
        reason = f"by hand, after version {holder.version}" if holder else "by hand"
        if not moves.crown(client, version, holder, reason):
            raise _moved(name)
        print(f"promoted {name} version {version.version} to champion: {reason}")
        return
    try:
        evaluation = versions.fetch_evaluation(client, version)
    except OperationalError as error:
        decision = promotion.Decision(False, f"version {version.version} has no evaluation: {error}")
    else:
        decision = promotion.promote(client, version, evaluation, promotion.Rule())
    if decision.promoted:
        print(f"promoted {name} version {version.version} to champion: {decision.reason}")
    else:
        kept = f"champion v{holder.version}" if holder else "no champion"
        print(f"kept {kept} because {decision.reason} (`--force` promotes all the same)")


def _roll_back(client: MlflowClient, name: str) -> None:
    from pipelines.registry import moves, versions

    _version(client, name, versions.CHAMPION)
    begun = moves.settle(client, name)
    if begun is not None and begun.kind == "rollback":  # by this command, which is not to go back twice
        print(
            f"{name}: champion is version {begun.to} again (was {begun.former}), as a rollback that broke off left it"
        )
        return
    champion = _version(client, name, versions.CHAMPION)
    before = champion.tags.get("previous_champion", "none")
    if before == "none":
        raise BadInput(
            f"{name}: champion version {champion.version} had none before it; nothing to go back to "
            f"(`seqgen models promote {name} VERSION` takes any)"
        )
    previous = _version(client, name, before)
    if not moves.roll_back(client, champion, previous):
        raise _moved(name)
    print(f"{name}: champion is version {before} again (was {champion.version})")


def _version(client: MlflowClient, name: str, wanted: str) -> ModelVersion:
    """The version of that number or alias. Raises BadInput that says what there is."""
    from seqgen.serving.loading import find_version

    return find_version(client, f"models:/{name}{'/' if wanted.isdecimal() else '@'}{wanted}")


def _moved(name: str) -> OperationalError:
    return OperationalError(
        f"{name}: another champion was put there meanwhile; look at `seqgen models show {name}`"
    )


if __name__ == "__main__":
    run(models)
