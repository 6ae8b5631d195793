"""Multi-MNIST: how many digits lie where, the numbers beside them; the paper's sets keep their bytes."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest

from data_prep.digits import read_digits
from data_prep.fetch import fetch
from data_prep.multi_mnist import multi_mnist
from data_prep.shard_set import shard_set
from data_prep.sources import RAW_FILES
from data_prep.verify import verify
from seqgen.core.errors import BadInput
from seqgen.data.images import load_split
from seqgen.data.manifest import read_manifest
from seqgen.data.settings import DataConfig


def config(**settings) -> DataConfig:
    return DataConfig(**{"source": "multi-mnist", "size": 64, "binarise": "static", **settings})


def squares(count: int, side: int) -> np.ndarray:
    """Digits that are all one square of ink, at different places of their 28 x 28 pixels."""
    digits = np.zeros((count, 28, 28), np.uint8)
    for number, digit in enumerate(digits):
        top, left = number % (29 - side), number // 3 % (29 - side)
        digit[top : top + side, left : left + side] = 200
    return digits


def chi_square(observed: np.ndarray) -> float:
    """Pearson's statistic against equal probabilities."""
    expected = observed.sum() / len(observed)
    return float(((observed - expected) ** 2 / expected).sum())


def test_the_papers_sets_keep_their_bytes():
    digits = np.random.default_rng(5).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    images, counts = multi_mnist(digits, config(), np.random.default_rng([3, 1]))
    digest = "6ac7e7b786ff3431574fe60d632a23fadef1f4c1e884ede6bbd24a485b3d5942"  # before data.digits existed
    assert hashlib.sha256(images.tobytes()).hexdigest() == digest
    assert (counts == 2).all()


def test_the_papers_set_of_the_real_digits_keeps_its_bytes(real_data):
    files = {file.name: real_data / file.path for file in RAW_FILES["multi-mnist"]}
    digest = hashlib.sha256()
    for images, labels in read_digits(config(seed=3), files).values():
        digest.update(images.tobytes())
        assert labels is None
    before = "15cb994b97340f8e3d27cb1f820208b2b8dffe08471df7a7dcfef79301fe138d"
    assert digest.hexdigest() == before


def test_two_whole_digits_lie_anywhere():
    digits = np.zeros((50, 28, 28), np.uint8)
    for number in range(50):  # each digit is two pixels, in corners to tell where it lies
        digits[number, 0, 0] = digits[number, 27, 27] = 128
        digits[number, 5, 5] = 127  # just paper
    images, _ = multi_mnist(digits, config(), np.random.default_rng([7, 0]))
    assert images.shape == (50, 64, 64)
    assert set(np.unique(images)) == {0, 1}
    assert {int(image.sum()) for image in images} <= {2, 3, 4}  # 4, or fewer where they lie on each other
    assert np.mean([image.sum() for image in images]) > 3.9
    rows, columns = np.nonzero(images.sum(0))
    assert min(rows.min(), columns.min()) <= 2
    assert max(rows.max(), columns.max()) >= 61


@pytest.mark.parametrize("settings", [{}, {"size": 50, "digits": (0, 1, 2), "overlap": False}])
def test_the_same_seed_gives_the_same_canvases(settings):
    first, same, other = (
        multi_mnist(squares(60, 9), config(**settings), np.random.default_rng([seed, 0]))
        for seed in (7, 7, 8)
    )
    assert np.array_equal(first[0], same[0])
    assert np.array_equal(first[1], same[1])
    assert not np.array_equal(first[0], other[0])


def test_the_digits_of_a_canvas_are_different_and_every_choice_is_as_likely():
    digits = np.zeros((4, 28, 28), np.uint8)
    for number, ink in enumerate((1, 2, 4, 8)):  # a sum of ink says which digits lie there
        digits[number, 14, 10 : 10 + ink] = 255
    data = config(digits=(3,), overlap=False)
    found = [multi_mnist(digits, data, np.random.default_rng(seed))[0].sum((1, 2)) for seed in range(500)]
    sums, times = np.unique(found, return_counts=True)
    assert sums.tolist() == [7, 11, 13, 14]
    assert chi_square(times) < 16.27  # 3 degrees of freedom, p = 0.001


@pytest.mark.parametrize(("size", "numbers"), [(50, (0, 1, 2)), (64, (1, 3, 4)), (64, (0, 1, 2, 3, 4))])
def test_numbers_are_uniform_and_right(size, numbers):
    data = config(size=size, digits=numbers, overlap=False)
    images, counts = multi_mnist(squares(6000, 6), data, np.random.default_rng(0))
    assert images.shape == (6000, size, size)
    # squares that share no pixel: their ink says how many there are
    assert np.array_equal(images.sum((1, 2)), 36 * counts.astype(int))
    present, times = np.unique(counts, return_counts=True)
    assert present.tolist() == list(numbers)
    assert chi_square(times) < {3: 13.82, 5: 18.47}[len(numbers)]  # 2 and 4 degrees of freedom, p = 0.001


def test_digits_that_may_overlap_do():
    images, counts = multi_mnist(squares(500, 12), config(digits=(0, 5)), np.random.default_rng(0))
    ink = images.sum((1, 2))
    assert (ink[counts == 0] == 0).all()
    assert (ink[counts == 5] < 5 * 144).any()
    assert ((ink >= 144) == (counts == 5)).all()


def test_a_digit_does_not_lie_in_the_hollow_of_another_without_overlap():
    digits = np.zeros((400, 28, 28), np.uint8)
    digits[::2, 2:26, 2:26] = 255
    digits[::2, 3:25, 3:25] = 0  # a frame of 92 pixels
    digits[1::2, 14, 14] = 255  # a dot

    def inside(overlap: bool) -> list[int]:
        images, _ = multi_mnist(digits, config(overlap=overlap), np.random.default_rng(0))
        found = []
        for image in images[images.sum((1, 2)) == 93]:
            (top, bottom), (left, right) = (np.flatnonzero(image.sum(axis) >= 23) for axis in (1, 0))
            found.append(int(image[top + 1 : bottom, left + 1 : right].sum()))
        return found

    assert sum(inside(True)) > 10
    assert len(inside(False)) > 50
    assert sum(inside(False)) == 0


def test_places_without_overlap_are_uniform_among_those_there_are():
    digits = np.zeros((5000, 28, 28), np.uint8)
    digits[:, 5:19, 5:19] = 255
    images, _ = multi_mnist(digits, config(size=50, overlap=False), np.random.default_rng(0))
    beside = images.any(1).sum(1) == 28  # no column has both
    apart = [abs(one - other) >= 14 for one, other in itertools.product(range(23), repeat=2)]
    share = np.mean(apart)  # of the pairs of places along one axis
    expected = share / (1 - (1 - share) ** 2)
    assert abs(beside.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / len(images))


def test_what_cannot_be_placed_is_refused():
    with pytest.raises(BadInput, match=r"data\.overlap=false: no places for 2 digits on 50 x 50"):
        multi_mnist(squares(2, 28), config(size=50, overlap=False), np.random.default_rng(0))
    with pytest.raises(BadInput, match=r"data\.digits=\[3\]: there are only 2 digits"):
        multi_mnist(squares(2, 5), config(digits=(3,)), np.random.default_rng(0))


def test_the_number_of_digits_is_the_concept_of_the_set(tmp_path):
    fetch(["multi-mnist-5k"], tmp_path / "raw", notice=lambda text: None)
    data = config(source="multi-mnist-5k", size=50, digits=(0, 1, 2), overlap=False)
    for name in ("set", "again"):
        manifest = shard_set(data, tmp_path / "raw", tmp_path / name, processes=1)
    for path in (tmp_path / "set").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    verify(tmp_path / "set")
    assert read_manifest(tmp_path / "set").data == data
    assert "no or one or two digits on a canvas without overlap" in manifest.title
    assert {split: index.images for split, index in manifest.splits.items()} == {
        "train": 4000,
        "valid": 500,
        "test": 500,
    }
    images = load_split(tmp_path / "set", "test")
    assert images.images.shape == (500, 50, 50)
    assert images.concept_names == manifest.splits["test"].concepts == ("0", "1", "2")
    ink = images.images.sum((1, 2))
    assert (ink[images.concepts == 0] == 0).all()
    assert (ink[images.concepts > 0] > 0).all()
    assert ink[images.concepts == 2].float().mean() / ink[
        images.concepts == 1
    ].float().mean() == pytest.approx(2, abs=0.2)
    assert images.spread(90).concepts.bincount().tolist() == [30, 30, 30]


def test_a_set_of_one_number_has_no_concepts(tmp_path):
    fetch(["multi-mnist-5k"], tmp_path / "raw", notice=lambda text: None)
    manifest = shard_set(config(source="multi-mnist-5k"), tmp_path / "raw", tmp_path / "set", processes=1)
    assert manifest.splits["test"].concepts == ()
    assert (load_split(tmp_path / "set", "test").concepts == -1).all()
