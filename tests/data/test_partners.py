"""Contexts: drawn without replacement, uniformly, never what they must not be."""

from __future__ import annotations

import pytest
import torch

from seqgen.core.errors import BadInput
from seqgen.data.batches import generator_at
from seqgen.data.images import ImageSet
from seqgen.data.new_classes import random_maps, same_map
from seqgen.data.partners import Partners

CONCEPTS = [0, 1, 0, 1, 1, 0, 1, 0, 2, 2, 3]
ALPHABETS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1]


def make(concepts: list[int], alphabets: list[int] | None = None) -> ImageSet:
    count = len(concepts)
    of = torch.tensor(alphabets or [0] * count)
    names = tuple(f"c{name}" for name in range(max(concepts) + 1))
    return ImageSet(torch.zeros(count, 2, 2, dtype=torch.uint8), 2, torch.tensor(concepts), of, names)


def cpu(*position: int) -> torch.Generator:
    return generator_at(torch.device("cpu"), *position)


def uniform_over(cells: torch.Tensor, draws: int) -> bool:
    """Whether each of equal cells is within five standard deviations of its mean."""
    mean = draws / len(cells)
    return bool(((cells - mean).abs() <= 5 * (mean * (1 - 1 / len(cells))) ** 0.5).all())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_partners_are_uniform_over_the_other_drawings(count: int):
    partners = Partners(make(CONCEPTS[:8]))
    drawn = partners.draw(torch.full((30_000,), 4), cpu(0), count)
    assert drawn.shape == (30_000, count)
    for column in drawn.unbind(1):
        cells = torch.bincount(column, minlength=8)
        assert cells.sum() == cells[[1, 3, 6]].sum()
        assert uniform_over(cells[[1, 3, 6]], 30_000)


def test_several_partners_are_different_and_every_set_of_them_is_as_likely():
    partners = Partners(make([0] * 5))
    drawn = partners.draw(torch.full((60_000,), 2), cpu(1), 2).sort(1).values
    code = drawn[:, 0] * 5 + drawn[:, 1]
    cells = torch.bincount(code, minlength=25)
    possible = [0 * 5 + 1, 0 * 5 + 3, 0 * 5 + 4, 1 * 5 + 3, 1 * 5 + 4, 3 * 5 + 4]
    assert cells.sum() == cells[possible].sum()
    assert uniform_over(cells[possible], 60_000)


def test_partners_of_the_alphabet_are_uniform_over_its_other_characters():
    partners = Partners(make(CONCEPTS, ALPHABETS), "alphabet")
    for image in range(len(CONCEPTS)):
        cells = torch.bincount(partners.draw(torch.full((20_000,), image), cpu(2))[:, 0], minlength=11)
        allowed = [
            other
            for other in range(len(CONCEPTS))
            if ALPHABETS[other] == ALPHABETS[image] and CONCEPTS[other] != CONCEPTS[image]
        ]
        assert cells.sum() == cells[allowed].sum()
        assert uniform_over(cells[allowed], 20_000)


def test_no_context_is_an_empty_row():
    assert Partners(make(CONCEPTS[:8])).draw(torch.arange(8), cpu(0), 0).shape == (8, 0)


def test_more_partners_than_there_are_are_refused():
    partners = Partners(make(CONCEPTS[:8]))
    assert partners.fewest == 3
    with pytest.raises(BadInput, match="4 contexts were asked for, and an image of the set has 3"):
        partners.draw(torch.arange(8), cpu(0), 4)


def test_a_concept_with_one_drawing_is_refused_for_pairs_by_name():
    with pytest.raises(BadInput, match="'c1' has one drawing"):
        Partners(make([0, 0, 1, 2, 2]))


def test_an_alphabet_of_one_character_is_refused_by_name():
    with pytest.raises(BadInput, match="alphabet of concept 'c2' has no other"):
        Partners(make([0, 0, 1, 2, 2], [0, 0, 0, 1, 1]), "alphabet")


def test_images_of_unknown_concept_or_alphabet_are_refused_for_pairs():
    with pytest.raises(BadInput, match="unknown concept"):
        Partners(make([0, 0, -1]))
    with pytest.raises(BadInput, match="unknown alphabet"):
        Partners(make([0, 0, 1], [0, 0, -1]), "alphabet")


def test_half_of_the_new_classes_are_exact_flips_and_transpositions():
    x = torch.rand(4000, 1, 7, 7, generator=cpu(3)).round()
    moved, context = same_map(x, x.repeat(1, 2, 1, 1), random_maps(4000, cpu(4)))
    assert context.equal(moved.repeat(1, 2, 1, 1))
    group = [
        turned
        for image in (x, x.transpose(2, 3))
        for turned in (image, image.flip(2), image.flip(3), image.flip(2, 3))
    ]
    same = torch.stack([(moved == other).flatten(1).all(1) for other in group])
    share = same.double().mean(1)
    # Half stay, a quarter are moved by one of eight, itself among them, and a quarter are warped as well.
    assert share[0] == pytest.approx(0.5 + 0.25 / 8, abs=0.04)
    assert share[1:].tolist() == pytest.approx([0.25 / 8] * 7, abs=0.015)
    assert 0.2 < 1 - same.any(0).double().mean() < 0.3
