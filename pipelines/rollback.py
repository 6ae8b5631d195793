"""Give the alias champion back to the champion before."""

from __future__ import annotations

from typing import Annotated

import typer

from data_prep.errors import BadInput
from pipelines.support.verb import run

NameArgument = Annotated[str, typer.Argument(help="Name of the registered model.")]


def rollback(name: NameArgument) -> None:
    """Make the previous champion of NAME champion again; it is fetched and loaded before the alias moves."""
    from pipelines.support import registry, tracking
    from seqgen.loading import find_version

    client = tracking.connect()
    uri = f"models:/{name}@{registry.CHAMPION}"
    find_version(client, uri)
    with registry.lock(client, name):
        champion = find_version(client, uri)
        previous = champion.tags.get("previous_champion", "none")
        if previous == "none":
            raise BadInput(
                f"{name}: champion version {champion.version} had none before it; nothing to go back to"
            )
        version = find_version(client, f"models:/{name}/{previous}")
        registry.verify(client, version)
        client.set_registered_model_alias(name, registry.CHAMPION, version.version)
        registry.set_tags(client, champion, {"promotion": "rolled back"})
        registry.set_tags(client, version, {"promotion": "promoted", "replaced_by": "none"})
    print(f"{name}: champion is version {version.version} again (was {champion.version})")


if __name__ == "__main__":
    run(rollback)
