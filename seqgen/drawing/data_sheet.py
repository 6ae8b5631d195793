"""A sheet of what a recipe trains on and is measured on: drawings of each split, as a model sees them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from PIL import Image
from torch import Tensor

from seqgen.data.batches import fixed_set
from seqgen.data.images import ImageSet
from seqgen.data.manifest import Manifest
from seqgen.drawing.pictures import Row, Sheet, render, tile, upscale

_COLUMNS = 12
_ROWS = 6  # of a split
_LABEL = 28  # letters of a concept's name
_TILE = 48  # screen pixels
_HOW = {
    "static": "binary as it is stored",
    "dynamic": "each grey level is a probability, drawn anew each time: one draw",
    "threshold": "ink where grey is above a half",
    "grey": "grey levels",
}


def data_sheet(manifest: Manifest, splits: Mapping[str, ImageSet], seed: int) -> Image.Image:
    """Rows of each split's images: of one concept each where concepts are known, else of images from all over.

    The same set and seed (of binarisation) give the same bytes.
    """
    rows = []
    for split, images in splits.items():
        for number, index in enumerate(_chosen(images)):
            seen = fixed_set(images.take(index), manifest.data, False, seed).x.numpy()
            scale = upscale(manifest.height, _TILE)
            concept = int(images.concepts[index[0]])
            name = _short(images.concept_names[concept]) if concept >= 0 else ""
            label = ": ".join(part for part in (split, name) if part)
            rows.append(Row([tile(each, scale) for each in seen], label, gap=0 if number else 12))
    counts = ", ".join(_count(split, images) for split, images in splits.items())
    said = (counts, manifest.appearance(), _HOW[manifest.data.binarise])
    return render(Sheet(rows, manifest.title, f"{'; '.join(part for part in said if part)}."))


def _count(split: str, images: ImageSet) -> str:
    concepts = f" of {len(images.concept_names):,} concepts" if images.concept_names else ""
    return f"{split} {len(images):,} images{concepts}"


def _chosen(images: ImageSet) -> list[Tensor]:
    """The images of each row, int64, spread evenly over the concepts and over the drawings of each."""
    present = images.concepts.unique()
    if len(present) < 2:
        everywhere = _spread(torch.arange(len(images)), _ROWS * _COLUMNS)
        return list(everywhere.split(_COLUMNS))
    return [
        _spread((images.concepts == concept).nonzero().squeeze(1), _COLUMNS)
        for concept in _spread(present, _ROWS)
    ]


def _spread(values: Tensor, count: int) -> Tensor:
    """At most `count` of `values` [N], evenly spaced, the first among them."""
    count = min(count, len(values))
    return values[torch.arange(count) * len(values) // max(1, count)]


def _short(name: str) -> str:
    return name if len(name) <= _LABEL else f"{name[: _LABEL - 3]}..."
