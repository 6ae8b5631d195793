"""Nearest training images against a loop over every pair and shift; the share of copies against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seqgen.evaluation import copies


def some(count: int, seed: int, size: int = 9, ink: float = 0.3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, size, size, generator=generator) < ink).to(torch.uint8)


def slow_distance(one: np.ndarray, other: np.ndarray) -> float:
    """The pixels in which two differ, as a share of the ink of both, with `one` moved on an endless paper."""
    best, (height, width) = np.inf, one.shape
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            paper = np.zeros((2, height + 2, width + 2), int)
            paper[0, 1 + down : 1 + down + height, 1 + right : 1 + right + width] = one
            paper[1, 1:-1, 1:-1] = other
            best = min(best, int((paper[0] != paper[1]).sum()))
    return best / (one.sum() + other.sum())


def test_nearest_agrees_with_a_loop_over_pairs_and_shifts_whatever_the_parts(monkeypatch):
    drawings, images = some(7, 0), some(23, 1)
    table = np.array([[slow_distance(a, b) for b in images.numpy()] for a in drawings.numpy()])
    found = copies.nearest(drawings, images)
    assert found.distance.tolist() == pytest.approx(table.min(1).tolist())
    assert found.index.tolist() == table.argmin(1).tolist()
    monkeypatch.setattr(copies, "_DRAWINGS", 3)
    monkeypatch.setattr(copies, "_IMAGES", 5)
    again = copies.nearest(drawings, images)
    assert torch.equal(again.index, found.index)
    assert torch.equal(again.distance, found.distance)
    own = copies.distances(drawings, images[:7])
    assert own.tolist() == pytest.approx(np.diag(table[:, :7]).tolist())


def test_a_copy_that_was_moved_by_a_pixel_is_at_distance_0_and_by_two_it_is_not():
    images = torch.zeros(5, 12, 12, dtype=torch.uint8)
    images[:, 3:9, 3:9] = some(5, 2, 6)
    moved = images.roll((1, -1), (1, 2))
    found = copies.nearest(moved, images)
    assert found.index.tolist() == [0, 1, 2, 3, 4]
    assert found.distance.tolist() == [0.0] * 5
    assert bool((copies.nearest(images.roll(2, 1), images).distance > 0).all())


def test_little_ink_is_no_copy_by_itself():
    line = torch.zeros(1, 8, 8, dtype=torch.uint8)
    line[0, 2:6, 3] = 1
    blank, dot = torch.zeros_like(line), torch.zeros_like(line)
    dot[0, 3, 3] = 1
    distances = copies.nearest(torch.cat([line, dot, blank]), line).distance
    assert distances.tolist() == pytest.approx([0, 3 / 5, 1])
    assert copies.distances(blank, blank).tolist() == [0]


def test_of_several_nearest_the_first_is_taken(monkeypatch):
    monkeypatch.setattr(copies, "_IMAGES", 2)
    image = some(1, 3)
    assert copies.nearest(image, image.repeat(7, 1, 1)).index.tolist() == [0]


def test_people_have_the_share_that_defines_a_copy():
    people = torch.randperm(1000, generator=torch.Generator().manual_seed(0)).double()
    for share in (0.01, 0.05):
        assert people.le(copies.threshold(people, share)).double().mean().item() == share
        found = copies.share_of_copies(people, people, share)
        assert (found.value, found.se) == (pytest.approx(share), 0)
    assert copies.threshold(torch.tensor([3.0, 1.0, 2.0]), 0.01) == 1


def test_the_share_of_copies_has_the_error_of_its_difference_to_peoples():
    people = torch.arange(100).double()
    samples = people + 50
    samples[[7, 30]] = 0  # copies; 7 is no copy of people's at 5 % (those are 0..4), nor 30
    found = copies.share_of_copies(samples, people, 0.05)
    assert found.value == pytest.approx(0.02)
    differences = np.zeros(100)
    differences[[7, 30]] = 1
    differences[:5] -= 1
    assert found.se == pytest.approx(differences.std(ddof=1) / 10)
    # All drawings of a character twice: the error by character is that of one of each.
    twice = copies.share_of_copies(samples.repeat(2), people.repeat(2), 0.05, torch.arange(100).repeat(2))
    assert twice.se == pytest.approx(found.se)
    assert twice.se_by_alphabet is None
