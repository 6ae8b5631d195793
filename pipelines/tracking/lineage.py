"""Where a run came from: the tags that let a model version be walked back to its raw files."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipelines.tracking.source_files import LEARNING, ROOT, source_files
from seqgen.core.files import canonical_digest, file_sha256
from seqgen.data.manifest import Manifest
from seqgen.settings import Recipe

PREFIX = "seqgen."


def git_commit(root: Path = ROOT) -> str:
    """The commit checked out at `root`, with `+dirty` for uncommitted changes.

    Outside Git (an image, the working directory of a Ray job) SEQGEN_COMMIT says it, else it is "none".
    `dvc.lock` does not count as a change: a running `dvc repro` writes it.
    """
    try:
        head = _git(root, "rev-parse", "HEAD")
        changes = _git(root, "status", "--porcelain", "--", ".", ":(exclude)dvc.lock")
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("SEQGEN_COMMIT", "none")
    return head + ("+dirty" if changes else "")


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()


def code_digest(recipe: Recipe | None = None) -> str:
    """The sha256 of the code that decides the numbers: data preparation, training, the recipe's plugins."""
    files = source_files(*LEARNING, *(plugins(recipe) if recipe else ())).files
    return canonical_digest({name: file_sha256(path) for name, path in files.items()})


def plugins(recipe: Recipe) -> list[str]:
    """The modules from outside the package that a recipe's model or training needs."""
    return sorted({**recipe.model.used_plugins(), **recipe.train.used_plugins()})


def versions() -> dict[str, str]:
    """The installed versions that matter to a result."""
    found = {"python": platform.python_version()}
    for package in ("seqgen", "torch", "ray", "mlflow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found


def dataset(manifest: Manifest) -> dict[str, str]:
    """The set as MLflow has it among a run's inputs; of the digest it takes 36 characters, and 32 are given."""
    images = {split: index.images for split, index in manifest.splits.items()}
    sources = {source.name: source.sha256 for source in manifest.sources}
    return {
        "name": manifest.title,
        "digest": manifest.digest[:32],
        "source_type": manifest.data.source,
        "source": json.dumps(sources, sort_keys=True),
        "profile": json.dumps({"images": images, "height": manifest.height, "width": manifest.width}),
    }


def ray_job() -> str:
    """The submission id of the Ray job we are the entry point of, else the cluster's job id, else "none"."""
    try:
        config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        submission = config.get("metadata", {}).get("job_submission_id")
    except (ValueError, AttributeError):
        submission = None
    if submission:
        return str(submission)
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return ray.get_runtime_context().get_job_id()
    return "none"


def training_request(recipe: Recipe) -> str:
    """The sha256 of what a training is asked for: the settings before a search filled any in, and its space."""
    search = recipe.search.model_dump(mode="json", exclude={"workers"}) if recipe.search else None
    return canonical_digest({"learned": recipe.digest(), "search": search})


def request_digest(recipe: Recipe, training: str | None = None) -> str:
    """The sha256 of the training request and the evaluation's settings: what a retraining compares.

    `training` is the request that a finished training was made from (run.json), if not `recipe`'s own.
    """
    asked = [training or training_request(recipe), recipe.evaluate.model_dump(mode="json")]
    return canonical_digest(asked)


def lineage_tags(recipe: Recipe, manifest: Manifest) -> dict[str, str]:
    """Tags of a run and of the model version it leads to; digests are sha256. Holds no secret and no path."""
    tags = {
        "recipe": recipe.name,
        "git_commit": git_commit(),
        "code_digest": code_digest(recipe),
        "settings_digest": recipe.digest(),
        "manifest_digest": manifest.digest,
        "data": manifest.title,
        "ray_job": ray_job(),
        **{f"source.{source.name}": source.sha256 for source in manifest.sources},
        **{f"version.{package}": number for package, number in versions().items()},
    }
    return {PREFIX + key: value for key, value in tags.items()}
