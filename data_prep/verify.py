"""A sharded set against its manifest, to the last sample: which shard and member is damaged."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from data_prep.strict_tar import read_strictly
from seqgen.core.errors import OperationalError
from seqgen.data.manifest import Manifest, Place, Shard, SplitIndex, check_shard_bytes, read_manifest


def verify(place: Place) -> Manifest:
    """Read every sample of every shard of the set in `place` and compare everything with the manifest.

    Raises BadInput if there is no manifest, OperationalError that names every damaged shard, with the member.
    """
    manifest = read_manifest(place)
    listed = {shard.name for index in manifest.splits.values() for shard in index.shards}
    there = place.glob("*.tar") if isinstance(place, Path) else ()
    problems = [f"{path}: not in the manifest" for path in sorted(there) if path.name not in listed]
    inked = 0
    for split, index in manifest.splits.items():
        concepts: set[str] = set()
        whole = True
        for shard in index.shards:
            try:
                with _file(place, shard) as path:
                    ink = _verify_shard(path, shard, manifest, concepts)
            except OperationalError as error:
                problems.append(str(error))
                whole = False
            else:
                inked += ink if split == "train" else 0
        if whole:
            problems += _split_problems(place, split, index, concepts)
    train = manifest.splits.get("train")
    pixels = (train.images if train else 0) * manifest.height * manifest.width * (manifest.levels - 1)
    if not problems and (not pixels or inked / pixels != manifest.mean):
        problems.append(f"{place}: mean={manifest.mean} is not that of train's pixels")
    if problems:
        raise OperationalError("; ".join(problems))
    return manifest


@contextlib.contextmanager
def _file(place: Place, shard: Shard) -> Iterator[Path]:
    """The shard as a file; one that is published is fetched, and named by its address in an error of the block."""
    if isinstance(place, Path):
        yield place / shard.name
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / shard.name
        path.write_bytes(place.shard(shard))
        try:
            yield path
        except OperationalError as error:
            raise OperationalError(str(error).replace(str(path), f"{place}/{shard.name}")) from None


def _verify_shard(path: Path, shard: Shard, manifest: Manifest, concepts: set[str]) -> int:
    """The sum of the shard's pixels; what it holds is added to `concepts`."""
    samples = images = ink = 0
    if path.is_file():  # first the members: the file's digest alone could not say which
        for pixels, meta in read_strictly(path):
            member = f"{path}: sample {samples} ({meta['concept'] or meta['dataset']})"
            if pixels.shape[1:] != (manifest.height, manifest.width):
                raise OperationalError(f"{member}: {pixels.shape[1:]}, not {manifest.height, manifest.width}")
            if manifest.levels == 2 and pixels.max() > 1:
                raise OperationalError(f"{member}: grey levels in a set of 2")
            if meta["dataset"] != manifest.data.source:
                raise OperationalError(f"{member}: of {meta['dataset']}, not {manifest.data.source}")
            samples, images, ink = samples + 1, images + len(pixels), ink + int(pixels.sum(dtype=int))
            concepts.update([meta["concept"]] if meta["concept"] else map(str, meta["labels"] or ()))
    check_shard_bytes(path.parent, shard)
    if (samples, images) != (shard.samples, shard.images):
        raise OperationalError(
            f"{path}: {samples} samples, {images} images; the manifest has {shard.samples}, {shard.images}"
        )
    return ink


def _split_problems(place: Place, split: str, index: SplitIndex, concepts: set[str]) -> list[str]:
    problems = []
    if concepts != set(index.concepts):
        problems.append(f"{place}: the concepts of {split} are not the manifest's")
    if sum(shard.images for shard in index.shards) != index.images:
        problems.append(f"{place}: the images of {split}'s shards do not add up to {index.images}")
    return problems
