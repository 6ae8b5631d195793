"""Drawings in the order that critics are trained and asked in: by character."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from seqgen.core.errors import BadInput
from seqgen.data.batches import generator_at
from seqgen.data.images import ImageSet


class Characters(NamedTuple):
    """The n drawings of each of C characters: uint8 [C,n,H,W] in {0, 1}; the characters' alphabets, int64 [C]."""

    drawings: Tensor
    alphabets: Tensor


class Exemplars(NamedTuple):
    """One drawing of each character, uint8 [C,H,W], and its others, [C,n-1,H,W]."""

    support: Tensor
    others: Tensor


def by_character(images: ImageSet) -> Characters:
    """The characters of `images`. Raises BadInput unless it has bits, and 3 drawings or more of each, equally many."""
    if images.levels != 2:
        raise BadInput(
            f"critics see bits, and the set has {images.levels} grey levels; use a set of Omniglot's"
        )
    if bool((images.concepts < 0).any()):
        raise BadInput("critics need characters, and the set has images of none; use a set of Omniglot's")
    present, counts = images.concepts.unique(return_counts=True)
    drawings = int(counts[0])
    if int(counts.min()) != int(counts.max()) or drawings < 3:
        fewest = images.concept_names[int(present[counts.argmin()])]
        raise BadInput(
            f"critics need equally many drawings of every character, 3 or more, and {fewest!r} has "
            f"{int(counts.min())}, another {int(counts.max())}; use the whole split"
        )
    index = images.concepts.argsort(stable=True).view(-1, drawings)
    pixels = images.pixels(index.flatten()).unflatten(0, index.shape)
    return Characters(pixels.cpu(), images.alphabets[index[:, 0]].cpu())


def random_exemplars(characters: Characters, seed: int) -> Exemplars:
    """One drawing of each character at random, from `seed`."""
    generator = generator_at(torch.device("cpu"), seed, "exemplars")
    chosen = torch.rand(characters.drawings.shape[:2], generator=generator).argmax(1)
    return _chosen(characters, chosen)


def typical_exemplars(characters: Characters, features: Tensor) -> Exemplars:
    """The drawing of each character that is nearest to the mean of its drawings in `features` [C,n,F]."""
    return _chosen(characters, (features - features.mean(1, keepdim=True)).norm(dim=2).argmin(1))


def _chosen(characters: Characters, chosen: Tensor) -> Exemplars:
    classes, drawings = characters.drawings.shape[:2]
    mask = torch.arange(drawings) != chosen.unsqueeze(1)
    others = characters.drawings[mask].unflatten(0, (classes, drawings - 1))
    return Exemplars(characters.drawings[torch.arange(classes), chosen], others)
