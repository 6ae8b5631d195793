"""From a registered version back to its run, settings, shards and raw files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.tracking import lineage
from seqgen.core.errors import OperationalError
from seqgen.data.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


def provenance(client: MlflowClient, version: ModelVersion) -> Iterator[tuple[int, str]]:
    """(depth, line) for each link, from the version down to the raw files.

    Raises OperationalError, MLflow's errors of the server.
    """
    from seqgen.serving.loading import MANIFEST_TAG, WEIGHTS_TAG, fetch_part

    tags = version.tags
    yield 0, f"model {version.name} version {version.version}"
    yield 1, f"weights sha256 {tags.get(WEIGHTS_TAG, 'unknown')}"
    yield 1, f"held-out bound {bound(tags)}"
    if "promotion" in tags:
        yield 1, f"{tags['promotion']}: {tags.get('promotion_reason', '')}"
    yield 0, f"run {version.run_id} ({_run_state(client, version)})"
    for key in ("git_commit", "code_digest", "settings_digest", "ray_job"):
        yield 1, f"{key.replace('_', ' ')} {tags.get(lineage.PREFIX + key, 'unknown')}"
    yield 1, "versions " + ", ".join(_under(tags, "version."))
    with tempfile.TemporaryDirectory() as directory:
        manifest = read_manifest(
            fetch_part(client, version, "artifacts/manifest.json", Path(directory)).parent
        )
        recipe = json.loads(fetch_part(client, version, "artifacts/recipe.json", Path(directory)).read_text())
    if manifest.digest != tags.get(MANIFEST_TAG):
        raise OperationalError(
            f"models:/{version.name}/{version.version}: its manifest is not the run's; altered"
        )
    yield 1, f"recipe {recipe['name']}: {recipe['description']}"
    yield 0, f"data {manifest.title} (manifest {manifest.digest})"
    yield from _files(manifest)


def bound(tags: dict[str, str]) -> str:
    """The bound that a version of these tags competes with, and what its run reports of another split, in words."""
    if "seqgen.bound" not in tags:
        return "unknown"
    said = f"{float(tags['seqgen.bound']):.3f} nats"
    if "seqgen.bound_split" in tags:
        said += f" on {tags['seqgen.bound_split']}"
    if "seqgen.reported_bound" in tags:
        said += f" (reported: {float(tags['seqgen.reported_bound']):.3f} on {tags['seqgen.reported_split']})"
    return said


def _run_state(client: MlflowClient, version: ModelVersion) -> str:
    from seqgen.serving.loading import found

    run = found(lambda: client.get_run(version.run_id or ""))
    if run is None:
        return "deleted from the tracking server"
    return (
        run.info.status if run.info.lifecycle_stage == "active" else f"{run.info.status}, in MLflow's trash"
    )


def _under(tags: dict[str, str], prefix: str) -> list[str]:
    start = lineage.PREFIX + prefix
    return [
        f"{key.removeprefix(start)} {value}" for key, value in sorted(tags.items()) if key.startswith(start)
    ]


def _files(manifest: Manifest) -> Iterator[tuple[int, str]]:
    for split, index in manifest.splits.items():
        yield 1, f"{split}: {index.images} images"
        for shard in index.shards:
            yield 2, f"{shard.sha256}  {shard.name}"
    yield 1, "raw files"
    for source in manifest.sources:
        yield 2, f"{source.sha256}  {source.name}"
