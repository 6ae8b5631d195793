"""What is damaged of a set, by shard and member, and the set without its damaged training shards."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from pathlib import Path

from data_prep.strict_tar import read_strictly
from seqgen.core.errors import BadInput, OperationalError
from seqgen.data.manifest import Manifest, Shard, SplitIndex, check_shard_bytes, read_manifest
from seqgen.data.shards import read_shard

SPLIT = "train"  # what may be left out of; other splits are what trainings are compared on


def damage(directory: Path, shards: Iterable[Shard]) -> dict[str, str]:
    """What is wrong with those shards that are not the manifest's, by name; with the member where it can be told."""
    return {shard.name: problem for shard in shards if (problem := _problem(directory, shard))}


def _problem(directory: Path, shard: Shard) -> str | None:
    try:
        check_shard_bytes(directory, shard)
    except OperationalError as differs:
        try:
            for _ in read_strictly(directory / shard.name):
                pass
        except OperationalError as error:
            return str(error) if (directory / shard.name).is_file() else str(differs)
        return str(differs)
    return None


def leave_out_damaged(directory: Path) -> tuple[Manifest, dict[str, str]]:
    """Take the damaged training shards out of the set in `directory`; its manifest now, and what was wrong by shard.

    They get `.bad` behind their names. The set is another one from then on, with its own digest, and its manifest and
    title say what is left out. Nothing is written where nothing is damaged.
    Raises BadInput if there is no set, OperationalError if no training shard is whole or another split is damaged.
    """
    manifest = read_manifest(directory)
    others = [shard for split, index in manifest.splits.items() if split != SPLIT for shard in index.shards]
    if problems := damage(directory, others):
        raise OperationalError(
            f"{'; '.join(problems.values())}; only training shards can be left out, because trainings are compared on "
            "the others; shard the set again"
        )
    if SPLIT not in manifest.splits:
        raise BadInput(f"{directory}: no split {SPLIT}; shard the set again")
    train = manifest.splits[SPLIT].shards
    problems = damage(directory, train)
    if not problems:
        return manifest, {}
    whole = tuple(shard for shard in train if shard.name not in problems)
    if not whole:
        raise OperationalError(
            f"{'; '.join(problems.values())}; no training shard is whole; shard the set again"
        )
    left_out = (*manifest.left_out, *(shard for shard in train if shard.name in problems))
    rest = _without(directory, manifest, whole, left_out)
    for name in problems:  # first, so that a run that is cut short here finds them missing
        path = directory / name
        if path.exists():
            path.replace(path.with_name(f"{name}.bad"))
    return rest.write(directory), problems


def _without(
    directory: Path, manifest: Manifest, whole: tuple[Shard, ...], left_out: tuple[Shard, ...]
) -> Manifest:
    concepts: set[str] = set()
    ink = 0
    for shard in whole:
        for drawings, meta in read_shard(directory, shard):
            ink += int(drawings.sum(dtype=int))
            concepts.update([meta["concept"]] if meta["concept"] else map(str, meta["labels"] or ()))
    images = sum(shard.images for shard in whole)
    if not images:
        raise BadInput(
            f"{directory}: no training images are left without {left_out[-1].name}; shard the set again"
        )
    before = manifest.splits[SPLIT]
    kept = tuple(concept for concept in before.concepts if concept in concepts)
    title = manifest.title.partition(", without ")[0]
    lost = f"{counted(left_out)} ({sum(shard.images for shard in left_out):,} images)"
    pixels = images * manifest.height * manifest.width * (manifest.levels - 1)
    return manifest.model_copy(
        update={
            "title": f"{title}, without {lost}",
            "mean": ink / pixels,
            "splits": {**manifest.splits, SPLIT: SplitIndex(images=images, concepts=kept, shards=whole)},
            "left_out": left_out,
        }
    )


def counted(shards: Sized) -> str:
    """How many damaged shards there are, in words."""
    return f"{len(shards)} damaged shard{'' if len(shards) == 1 else 's'}"
