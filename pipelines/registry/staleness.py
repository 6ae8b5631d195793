"""Whether there is a registered version of the data, code and settings there are now."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pipelines.registry import versions
from pipelines.tracking import lineage
from seqgen.data.manifest import Manifest
from seqgen.settings import Recipe

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_WORDS = {"manifest_digest": "data", "code_digest": "code", "request_digest": "settings"}


class Comparison(NamedTuple):
    """changed: what is not as it was when the champion was made, a line each;
    current: which version is made of all there is now, in words; empty: none."""

    changed: list[str]
    current: str


def compare(client: MlflowClient, champion: ModelVersion, recipe: Recipe, manifest: Manifest) -> Comparison:
    """Compare what the champion and the newest version were made from with what there is. Raises MLflow's errors."""
    present = {
        "manifest_digest": manifest.digest,
        "code_digest": lineage.code_digest(recipe),
        "request_digest": lineage.request_digest(recipe),
    }
    changed = _changed_since(champion, present)
    if not changed:
        title = f"champion version {champion.version}"
        return Comparison([], f"{title} is made of this data, code and settings")
    lines = [f"since champion version {champion.version} was made, {line}" for line in changed]
    newest = versions.by_alias(client, recipe.register_.name, versions.CANDIDATE)
    if newest is None or "promotion_reason" not in newest.tags:  # none, or it was killed before it was judged
        return Comparison(lines, "")
    if _changed_since(newest, present):
        return Comparison(lines, "")
    verdict = f"{newest.tags.get('promotion')}: {newest.tags['promotion_reason']}"
    return Comparison(lines, f"version {newest.version} is made of all this already ({verdict})")


def _changed_since(version: ModelVersion, present: dict[str, str]) -> list[str]:
    """What differs between the `present` digests and those that `version` carries, a line each."""
    found = []
    for key, now in present.items():
        then = version.tags.get(lineage.PREFIX + key, "unknown")
        if then != now:
            found.append(f"{_WORDS[key]} changed ({key.replace('_', ' ')} {then[:12]} -> {now[:12]})")
    return found
