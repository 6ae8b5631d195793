"""Give the alias champion back to the champion before."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.command import run
from seqgen.core.errors import BadInput

NameArgument = Annotated[str, typer.Argument(help="Name of the registered model.")]


def rollback(name: NameArgument) -> None:
    """Make the previous champion of NAME champion again; it is fetched and loaded before the alias moves."""
    from pipelines.registry import versions
    from pipelines.tracking import runs
    from seqgen.serving.loading import find_version

    client = runs.connect()
    uri = f"models:/{name}@{versions.CHAMPION}"
    find_version(client, uri)
    with versions.lock(client, name):
        champion = find_version(client, uri)
        previous = champion.tags.get("previous_champion", "none")
        if previous == "none":
            raise BadInput(
                f"{name}: champion version {champion.version} had none before it; nothing to go back to"
            )
        version = find_version(client, f"models:/{name}/{previous}")
        versions.verify(client, version)
        client.set_registered_model_alias(name, versions.CHAMPION, version.version)
        versions.set_tags(client, champion, {"promotion": "rolled back"})
        versions.set_tags(client, version, {"promotion": "promoted", "replaced_by": "none"})
    print(f"{name}: champion is version {version.version} again (was {champion.version})")


if __name__ == "__main__":
    run(rollback)
