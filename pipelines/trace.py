"""Walk back from a registered model to its raw files."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.command import run

ModelArgument = Annotated[str, typer.Argument(help="models:/<name>@<alias> or models:/<name>/<version>")]


def trace(model: ModelArgument) -> None:
    """Print the chain model version - run - commit, settings, data - shards - raw files, with every sha256.

    The registry's digests are compared with the files stored with the version: exit 1 if they differ.
    """
    from pipelines.registry.provenance import provenance
    from pipelines.tracking import runs
    from seqgen.serving.loading import find_version

    client = runs.connect()
    try:
        for depth, line in provenance(client, find_version(client, model)):
            print("  " * depth + line)
    except runs.server_errors() as error:
        raise runs.failure(client.tracking_uri, error) from None


if __name__ == "__main__":
    run(trace)
