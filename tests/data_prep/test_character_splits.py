"""Omniglot's splits and sizes."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.omniglot import Character
from data_prep.shrink import shrink
from data_prep.splits import held_back, split_characters
from seqgen.core.errors import BadInput


def _alphabets(prefix: str, count: int, size: int = 12) -> list[Character]:
    return [
        Character(f"{prefix}{a:02d}", f"character{c:02d}", ())
        for a in range(count)
        for c in range(1, size + 1)
    ]


BACKGROUND, EVALUATION = _alphabets("B", 30), _alphabets("E", 20)


@pytest.mark.parametrize(
    ("split", "tested"), [("30-20", range(20)), ("40-10", range(10, 20)), ("45-5", range(15, 20))]
)
def test_strong_splits_hold_out_the_last_evaluation_alphabets(split, tested):
    splits = split_characters(BACKGROUND, EVALUATION, split)
    assert {c.alphabet for c in splits["test"]} == {f"E{a:02d}" for a in tested}
    assert len(splits["test"]) == 12 * len(tested)


def test_the_weak_split_holds_out_three_characters_of_every_alphabet():
    splits = split_characters(BACKGROUND, EVALUATION, "weak")
    assert len(splits["test"]) == 150
    assert {c.name for c in splits["test"]} == {"character01", "character02", "character03"}
    assert len({c.alphabet for c in splits["train"]}) == 50


@pytest.mark.parametrize("split", ["weak", "30-20", "40-10", "45-5"])
def test_splits_are_disjoint_complete_and_sorted(split):
    splits = split_characters(BACKGROUND[::-1], EVALUATION, split)
    everything = [c for characters in splits.values() for c in characters]
    assert sorted(everything) == sorted(BACKGROUND + EVALUATION)
    assert all(characters == sorted(characters) for characters in splits.values())
    training = len(splits["train"]) + len(splits["valid"])
    assert len(splits["valid"]) == training // 10


def test_valid_is_spread_over_the_alphabets_and_does_not_depend_on_order():
    valid = held_back(BACKGROUND)
    per_alphabet = [sum(c.alphabet == f"B{a:02d}" for c in valid) for a in range(30)]
    assert set(per_alphabet) == {1, 2}
    assert held_back(BACKGROUND[::-1]) == valid
    assert len({c.name for c in valid}) > 6  # not always the same character


def test_sets_too_small_or_overlapping_are_refused():
    with pytest.raises(BadInput, match="B00 has 3 characters"):
        split_characters(_alphabets("B", 2, size=3), EVALUATION, "weak")
    with pytest.raises(BadInput, match="split=40-10: 10 evaluation alphabets"):
        split_characters(BACKGROUND, _alphabets("E", 10), "40-10")
    with pytest.raises(BadInput, match="'B00' stands in both archives"):
        split_characters(BACKGROUND, _alphabets("B", 1), "30-20")


def test_52_drops_the_top_row_and_left_column_and_keeps_all_other_ink():
    ink = np.zeros((1, 105, 105), bool)
    ink[0, 0, :] = ink[0, :, 0] = True
    assert shrink(ink, 52).sum() == 0
    for row, column in [(1, 1), (104, 104), (53, 20)]:
        ink[:] = False
        ink[0, row, column] = True
        assert np.argwhere(shrink(ink, 52)).tolist() == [[0, (row - 1) // 2, (column - 1) // 2]]


def test_28_is_ink_where_two_fifths_of_the_area_are():
    """Against areas computed on a grid of quarter pixels, on which 28 x 28 and 105 x 105 both lie."""
    ink = np.random.default_rng(0).random((4, 105, 105)) < 0.4
    fine = ink.repeat(4, 1).repeat(4, 2).reshape(4, 28, 15, 28, 15).sum((2, 4))
    small = shrink(ink, 28)
    assert np.array_equal(small, fine >= 90)
    assert 0.2 < small.mean() < 0.8


def test_nearest_takes_the_pixels_of_the_published_files_and_nothing_else():
    ink = np.random.default_rng(0).random((2, 105, 105)) < 0.4
    small = shrink(ink, 28, "nearest")
    assert small.shape == (2, 28, 28)
    for row in range(28):
        for column in range(28):
            assert np.array_equal(small[:, row, column], ink[:, int(3.75 * row), int(3.75 * column)])


def test_28_keeps_a_pen_stroke_whole():
    ink = np.zeros((2, 105, 105), bool)
    ink[0, 10:95, 50:53] = True
    ink[1, 40:43, 7:99] = True
    vertical, horizontal = shrink(ink, 28)
    assert vertical.any(axis=1).sum() >= 22
    assert horizontal.any(axis=0).sum() >= 24
