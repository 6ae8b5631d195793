"""Sheets of one-shot generation: the right drawings in the right places, whoever draws them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from seqgen.core.errors import BadInput
from seqgen.drawing import composing, one_shot
from seqgen.drawing.galleries import tiles
from seqgen.drawing.one_shot import Subject
from seqgen.drawing.pictures import FRAME, TABLE, png
from seqgen.evaluation.bounds import HeldOut
from seqgen.evaluation.copies import Nearest
from seqgen.models import build
from seqgen.settings import ModelConfig

SIDE = 12
CONCEPTS, EACH = 24, 12  # 24 characters of 4 alphabets, 12 drawings each


def subject(conditional: bool = True, contexts: int = 1, seed: int = 0) -> Subject:
    count = CONCEPTS * EACH
    x = torch.randint(0, 2, (count, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(1)).byte()
    concepts = torch.arange(count) % CONCEPTS
    context = x.roll(CONCEPTS, 0).repeat(1, contexts, 1, 1) if conditional else None
    held_out = HeldOut(x, context, concepts, concepts, concepts % 4)
    torch.manual_seed(0)
    config = ModelConfig(
        steps=2, latents=2, hidden=8, attention="full", canvas="additive", conditional=conditional
    )
    model = build(config, SIDE, SIDE, 0.3).eval()
    free_energy = torch.rand(count, generator=torch.Generator().manual_seed(2)).double() * 100
    return Subject(model, held_out, free_energy, "a set", seed)


class Page:
    """A sheet on which tiles are looked for."""

    def __init__(self, image: Image.Image) -> None:
        self.image, self._pixels = image, _packed(image)

    def places(self, tile: Image.Image) -> list[tuple[int, int]]:
        """Where the tile stands, (row, column) in pixels."""
        sheet, wanted = self._pixels, _packed(tile)
        height, width = wanted.shape
        rows, columns = np.nonzero(sheet[: -height + 1, : -width + 1] == wanted[0, 0])
        for down in range(0, height, 7):  # fewer and fewer places come into question
            for right in range(0, width, 7):
                same = sheet[rows + down, columns + right] == wanted[down, right]
                rows, columns = rows[same], columns[same]
        return [
            (row, column)
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
            if (sheet[row : row + height, column : column + width] == wanted).all()
        ]


def _packed(image: Image.Image) -> np.ndarray:
    """One number a pixel, [H,W]."""
    red, green, blue = np.moveaxis(np.asarray(image).astype(np.int32), 2, 0)
    return red << 16 | green << 8 | blue


def test_a_drawing_depends_on_its_number_and_context_and_not_on_the_parts_it_is_made_in():
    shown = subject()
    context = shown.held_out.x[:5]
    drawn = one_shot.draw(shown.model, 15, 0, "test", context)
    assert drawn.shape == (15, 1, SIDE, SIDE)
    torch.testing.assert_close(one_shot.draw(shown.model, 15, 0, "test", context, chunk=4), drawn)
    again = one_shot.draw(shown.model, 15, 0, "test", context.repeat(3, 1, 1, 1))
    torch.testing.assert_close(again, drawn)
    assert not torch.equal(one_shot.draw(shown.model, 15, 1, "test", context), drawn)


def test_exemplars_stand_below_what_they_were_given():
    shown = subject()
    page = Page(one_shot.exemplars(shown, "title"))
    first = shown.held_out.x[:CONCEPTS]  # of each concept
    found = {concept: spots for concept, image in enumerate(tiles(first)) if (spots := page.places(image))}
    top = {concept: spots[0] for concept, spots in found.items()}
    row = min(spot[0] for spot in top.values())
    chosen = sorted((spot[1], concept) for concept, spot in top.items() if spot[0] == row)
    assert len(chosen) == 10
    context = first[[concept for _, concept in chosen]]
    drawn = tiles(one_shot.draw(shown.model, 100, 0, "exemplars", context))
    for number, image in enumerate(drawn):
        assert [column for _, column in page.places(image)] == [chosen[number % 10][0]]


@pytest.mark.parametrize("contexts", [0, 1])
def test_the_most_and_least_likely_are_one_of_a_character_in_the_order_of_f(contexts):
    shown = subject(contexts=contexts)
    most, least = (Page(sheet) for sheet in one_shot.likely(shown))
    by_concept = shown.free_energy.view(EACH, CONCEPTS)
    for page, (values, index) in ((most, by_concept.min(0)), (least, by_concept.max(0))):
        order = values.argsort(descending=page is least)[:10]
        images = index[order] * CONCEPTS + order
        spots = [page.places(image) for image in tiles(shown.held_out.x[images])]
        assert all(len(spot) == 1 for spot in spots)
        assert [spot[0] for spot in spots] == sorted(spot[0] for spot in spots)
        assert (np.asarray(page.image) == FRAME).all(-1).any() == bool(contexts)
        if contexts:
            assert shown.held_out.context is not None
            above = [page.places(image)[0] for image in tiles(shown.held_out.context[images])]
            assert [column for _, column in above] == [spot[0][1] for spot in spots]


@pytest.mark.parametrize("conditional", [True, False])
def test_characters_from_the_prior_are_drawn_without_a_context(conditional):
    shown = subject(conditional, contexts=0)
    page = Page(one_shot.unconditional(shown, "how"))
    none = torch.zeros(100, 0, SIDE, SIDE) if conditional else None
    drawn = tiles(one_shot.draw(shown.model, 100, 0, "figure 6", none))
    spots = [page.places(image) for image in drawn]
    assert all(len(spot) == 1 for spot in spots)
    assert [spot[0] for spot in spots] == sorted(spot[0] for spot in spots)
    assert png(page.image) == png(one_shot.unconditional(shown, "how"))
    assert png(page.image) != png(one_shot.unconditional(subject(conditional, contexts=0, seed=1), "how"))


def test_contexts_of_a_character_are_its_drawings_and_of_an_alphabet_different_characters():
    held_out = subject().held_out
    assert held_out.alphabets is not None
    characters = one_shot.contexts_of(held_out, "character", 5, seed=0)
    assert len({int(held_out.concepts[index[0]]) for index in characters}) == 5
    for index in characters:
        assert len(index) == len(index.unique()) == 10
        assert len(held_out.concepts[index].unique()) == 1
    alphabets = one_shot.contexts_of(held_out, "alphabet", 3, seed=0)
    assert len({int(held_out.alphabets[index[0]]) for index in alphabets}) == 3
    for index in alphabets:
        assert len(held_out.alphabets[index].unique()) == 1
        assert len(index) == len(held_out.concepts[index].unique()) == 6  # an alphabet has no more
    with pytest.raises(BadInput, match="no alphabets"):
        one_shot.contexts_of(HeldOut(held_out.x, None, held_out.concepts), "alphabet", 3, 0)


@pytest.mark.parametrize(("pairs", "most"), [("character", 10), ("alphabet", 5)])
def test_samples_of_several_contexts_stand_beside_them(pairs, most):
    shown = subject()
    page = Page(one_shot.from_several(shown, shown.held_out, pairs, groups=2, samples=3))
    small = [composing.framed(image) for image in tiles(shown.held_out.x, 56)]
    rows = []
    for group, index in enumerate(one_shot.contexts_of(shown.held_out, pairs, 2, 0)):
        for count in [count for count in (1, 2, 5, 10) if count <= most]:
            given = shown.held_out.x[index[:count]].transpose(0, 1)
            drawn = one_shot.draw(shown.model, 3, 0, f"figure 11, {group}", given.expand(3, -1, -1, -1))
            spots = [page.places(image)[0] for image in tiles(drawn, 112)]
            assert len({row for row, _ in spots}) == 1
            rows.append((spots[0][0], group, count))
            top, left = spots[0]
            strip = Page(page.image.crop((0, top - 12, left, top + 120)))  # the height of two framed contexts
            shown_there = [image for image in index.tolist() if strip.places(small[image])]
            assert shown_there == index[:count].tolist(), (group, count)
    assert rows == sorted(rows)


def test_four_small_images_make_a_square_column_by_column():
    images = torch.rand(5, 1, 28, 28)
    first, second = composing.mosaics(images)
    assert first.size == second.size == (124, 124)
    small = [composing.framed(image) for image in tiles(images, 56)]
    assert [Page(first).places(image) for image in small[:4]] == [[(0, 0)], [(64, 0)], [(0, 64)], [(64, 64)]]
    assert Page(second).places(small[4]) == [(0, 0)]
    assert small[0].getpixel((0, 0)) == small[0].getpixel((59, 59)) == FRAME


def test_sheets_are_put_together_on_their_own_ground():
    one, other = (Image.new("RGB", size, colour) for size, colour in (((4, 2), "red"), ((2, 3), "blue")))
    below, aside = composing.stacked([one, other]), composing.beside([one, other])
    assert (below.size, aside.size) == ((4, 5), (6, 3))
    assert below.getpixel((1, 4)) == aside.getpixel((5, 2)) == (0, 0, 255)
    assert below.getpixel((3, 4)) == aside.getpixel((0, 2)) == TABLE


def test_samples_stand_above_their_nearest_training_image():
    held_out = subject().held_out
    drawn = held_out.x.flip(0)
    training = torch.randint(0, 2, (50, SIDE, SIDE), generator=torch.Generator().manual_seed(5)).byte()
    index = torch.arange(len(drawn)) % 50
    distance = torch.rand(len(drawn), generator=torch.Generator().manual_seed(6)).double()
    people = Nearest(index.flip(0), distance)
    page = Page(
        one_shot.beside_training(drawn, held_out, training, Nearest(index, distance), people, "a set", 0)
    )
    closest = distance.argsort()[:10]
    of_samples, of_training = tiles(drawn[closest]), tiles(training[index[closest]].unsqueeze(1))
    for sample, near in zip(of_samples, of_training, strict=True):
        pitch = sample.height + 4
        assert any((row + pitch, column) in page.places(near) for row, column in page.places(sample))
