"""What becomes of a split's images before they are encoded: samples, each of a character or of so many images."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.concepts import concept_of
from data_prep.digits import Labelled
from seqgen.data.manifest import Manifest
from seqgen.data.settings import DataConfig

CHUNK = 500  # images in one sample, at most


@dataclass(frozen=True)
class Sample:
    """What becomes one sample: images uint8 [n, H, W], or raw Omniglot drawings (PNG) still to be shrunk."""

    key: str
    meta: dict[str, Any]
    drawings: np.ndarray | tuple[bytes, ...]


@dataclass(frozen=True)
class SplitSamples:
    """A split before it is written."""

    concepts: tuple[str, ...]
    samples: tuple[Sample, ...]


def digit_splits(
    data: DataConfig, found: Mapping[str, Labelled], before: Manifest | None = None
) -> dict[str, SplitSamples]:
    """Samples of at most CHUNK images each, in order; those of a later delivery follow those `before`."""
    splits = {}
    for name, (images, labels) in found.items():
        samples = []
        first = samples_before(before, name)
        for number, start in enumerate(range(0, len(images), CHUNK), first):
            chunk = slice(start, start + CHUNK)
            meta: dict[str, Any] = dict.fromkeys(("alphabet", "character", "concept", "drawers"))
            meta |= {"dataset": data.source, "labels": None if labels is None else labels[chunk].tolist()}
            samples.append(Sample(key_of(number), meta, images[chunk]))
        classes = () if labels is None else tuple(str(label) for label in np.unique(labels))
        splits[name] = SplitSamples(classes, tuple(samples))
    return splits


def concept_samples(
    data: DataConfig, found: Mapping[str, Sequence[tuple[str, np.ndarray]]], before: Manifest | None = None
) -> dict[str, SplitSamples]:
    """The samples of each split of `found`, (name, pixels) in order of name: one for each concept.

    A concept of more than CHUNK drawings has several; those of a later delivery follow those of `before`.
    """
    splits = {}
    for split, drawings in found.items():
        known = before.splits[split].concepts if before else ()
        by_concept: dict[str, list[np.ndarray]] = {}
        for name, pixels in drawings:
            by_concept.setdefault(concept_of(name), []).append(pixels)
        samples: list[Sample] = []
        first = samples_before(before, split)
        for concept in sorted(by_concept):
            images = np.stack(by_concept[concept])
            alphabet, _, character = concept.rpartition("/")
            meta = {
                "dataset": data.source,
                "alphabet": alphabet or None,
                "character": character,
                "concept": concept,
                "drawers": None,
                "labels": None,
            }
            for start in range(0, len(images), CHUNK):
                number = first + len(samples)
                samples.append(Sample(key_of(number, concept), meta, images[start : start + CHUNK]))
        new = (concept for concept in sorted(by_concept) if concept not in known)
        splits[split] = SplitSamples((*known, *new), tuple(samples))
    return splits


def samples_before(before: Manifest | None, split: str) -> int:
    """How many samples of `split` the set `before` has, whose shards stay."""
    return sum(shard.samples for shard in before.splits[split].shards) if before else 0


def key_of(number: int, concept: str = "") -> str:
    """A sample's key: its number, and its concept as far as plain ASCII without dots can show it."""
    plain = unicodedata.normalize("NFKD", concept).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9]+", "_", plain)[:64].strip("_")
    return f"{number:06d}-{slug}" if slug else f"{number:06d}"
