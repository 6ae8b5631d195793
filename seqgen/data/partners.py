"""Which images are contexts of which: other drawings of the character, or other characters of the alphabet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from seqgen.core.errors import BadInput
from seqgen.data.settings import Pairs

if TYPE_CHECKING:
    from seqgen.data.images import ImageSet


def with_partners(images: ImageSet, pairs: Pairs) -> Tensor:
    """Which images have one: bool [N]. Of unknown concepts and alphabets none has."""
    within = images.concepts if pairs == "character" else images.alphabets
    _, count = _runs(within)
    _, own = _runs(images.concepts)
    return (within >= 0) & (count > (1 if pairs == "character" else own))


class Partners:
    """Draws contexts for images of a set, uniformly over what `pairs` allows, without replacement.

    character: the other drawings of the image's concept. alphabet: the drawings of the other concepts of its alphabet
    (the paper's third task).
    """

    def __init__(self, images: ImageSet, pairs: Pairs = "character") -> None:
        """Raises BadInput if an image has no concept or alphabet, or nothing to be paired with."""
        concepts = images.concepts
        if bool((concepts < 0).any()):
            raise BadInput(
                "model.conditional=true: the set has images of unknown concept; use a set with classes"
            )
        within = concepts if pairs == "character" else images.alphabets
        if bool((within < 0).any()):
            raise BadInput(
                "train.pairs=alphabet: the set has images of unknown alphabet; use Omniglot or pairs=character"
            )
        # Images in order of their group and, inside it, of what they must not be paired with.
        by_concept = concepts.argsort(stable=True)
        self._order = by_concept[within[by_concept].argsort(stable=True)]
        place = torch.empty_like(self._order)
        place[self._order] = torch.arange(len(place), device=place.device)
        start, count = _runs(within)
        if pairs == "character":
            first, excluded = place, torch.ones_like(place)
        else:
            first, excluded = _runs(concepts, place)
        self._start, self._count, self._partners = start, count, count - excluded
        self._after = first + excluded - start  # where in its group what an image may be paired with begins
        if int(self._partners.min()) < 1:
            name = images.concept_names[int(concepts[self._partners.argmin()])]
            if pairs == "alphabet":
                raise BadInput(f"train.pairs=alphabet: the alphabet of concept {name!r} has no other concept")
            raise BadInput(f"model.conditional=true: concept {name!r} has one drawing, a pair needs two")

    @property
    def fewest(self) -> int:
        """How many different contexts every image has at least."""
        return int(self._partners.min())

    def draw(self, index: Tensor, generator: torch.Generator, count: int = 1) -> Tensor:
        """`count` different partners of each image at `index` [M]: int64 [M,count], never the image itself.

        Raises BadInput where an image has fewer.
        """
        return self.choose(index, uniforms(index, generator, count))

    def choose(self, index: Tensor, uniform: Tensor) -> Tensor:
        """The partners of each image at `index` [M] that `uniform` [M,count] means: int64 [M,count]; as `draw`."""
        if uniform.shape[1] > self.fewest:
            raise BadInput(
                f"{uniform.shape[1]} contexts were asked for, and an image of the set has {self.fewest}: choose fewer"
            )
        start, total, partners, after = (
            of[index] for of in (self._start, self._count, self._partners, self._after)
        )
        chosen = torch.empty((len(index), 0), dtype=torch.int64, device=index.device)
        for already, drawn in enumerate(uniform.unbind(1)):
            left = partners - already
            rank = (drawn * left).long().minimum(left - 1)
            for taken in chosen.sort(dim=1).values.unbind(1):  # the rank-th of those that are left
                rank = rank + (rank >= taken)
            chosen = torch.cat([chosen, rank.unsqueeze(1)], 1)
        place = (after.unsqueeze(1) + chosen) % total.unsqueeze(1)
        return self._order[start.unsqueeze(1) + place]


def uniforms(index: Tensor, generator: torch.Generator, count: int) -> Tensor:
    """What `count` partners of each image at `index` [M] are chosen by: float64 [M,count], uniform in [0,1)."""
    uniform = torch.empty((len(index), count), device=index.device, dtype=torch.float64)
    for column in uniform.unbind(1):
        column.copy_(torch.rand(index.shape, generator=generator, device=index.device, dtype=torch.float64))
    return uniform


def _runs(names: Tensor, place: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """For every image the first place of its name's images, in sorted order or by `place`, and how many they are."""
    _, group, counts = names.unique(return_inverse=True, return_counts=True)
    if place is None:
        first = counts.cumsum(0) - counts
    else:
        first = torch.full_like(counts, len(names)).scatter_reduce(0, group, place, "amin")
    return first[group], counts[group]
