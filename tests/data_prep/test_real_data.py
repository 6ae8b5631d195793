"""The real files, where they are: pins, counts, splits. Skipped without them."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.archive import CheckedZip
from data_prep.digits import read_digits
from data_prep.fetch import fetch
from data_prep.omniglot import characters, content_digest, decode_drawing
from data_prep.shard_set import shard_set
from data_prep.shrink import shrink
from data_prep.sources import RAW_FILES
from data_prep.splits import split_characters
from data_prep.verify import verify
from seqgen.data.settings import DataConfig


@pytest.fixture(scope="module")
def omniglot(real_data):
    found = []
    for name in ("images_background.zip", "images_evaluation.zip"):
        with CheckedZip(real_data / "omniglot" / name) as archive:
            found.append(characters(archive))
    return found


@pytest.mark.parametrize("source", ["omniglot", "mnist", "binarized-mnist"])
def test_the_pins_are_those_of_the_real_files(real_data, tmp_path, source):
    paths = fetch([source], tmp_path, str(real_data), notice=lambda text: None)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [f.path for f in RAW_FILES[source]]


def test_the_content_pin_is_that_of_the_drawings(real_data):
    for file in RAW_FILES["omniglot"]:
        assert content_digest(real_data / file.path) == file.content


@pytest.mark.parametrize(
    ("split", "training", "test"),
    [("30-20", 964, 659), ("40-10", 1271, 352), ("45-5", 1479, 144), ("weak", 1473, 150)],
)
def test_omniglots_counts(omniglot, split, training, test):
    splits = split_characters(*omniglot, split)
    assert len(splits["train"]) + len(splits["valid"]) == training
    assert len(splits["valid"]) == training // 10
    assert len(splits["test"]) == test


def test_45_5_tests_on_the_last_five_alphabets(omniglot):
    test = split_characters(*omniglot, "45-5")["test"]
    assert sorted({c.alphabet for c in test}) == ["Sylheti", "Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG"]


def test_valid_touches_every_background_alphabet_of_ten_characters_or_more(omniglot):
    splits = split_characters(*omniglot, "30-20")
    large = {c.alphabet for c in omniglot[0]}
    assert large - {c.alphabet for c in splits["valid"]} == set()


def test_ink_stays_visible_when_shrunk(real_data, omniglot):
    with CheckedZip(real_data / "omniglot/images_evaluation.zip") as archive:
        names = [name for c in omniglot[1][::20] for name in c.members[:5]]
        ink = np.stack([decode_drawing(archive.read(name), name) for name in names])
    assert 0.06 < ink.mean() < 0.1
    for size in (28, 52):
        small = shrink(ink, size)
        assert 0.08 < small.mean() < 0.15
        assert small.any((1, 2)).all()


def test_mnists_counts(real_data):
    files = {file.name: real_data / file.path for file in RAW_FILES["mnist"]}
    splits = read_digits(DataConfig(source="mnist", size=28, binarise="dynamic"), files)
    assert {name: len(images) for name, (images, _) in splits.items()} == {
        "train": 50_000,
        "valid": 10_000,
        "test": 10_000,
    }
    assert splits["test"].labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_binarised_mnist_is_sharded_as_its_files(real_data, tmp_path):
    data = DataConfig(source="binarized-mnist", size=28, binarise="static")
    manifest = shard_set(data, real_data, tmp_path / "set")
    assert [index.images for index in manifest.splits.values()] == [50_000, 10_000, 10_000]
    assert [len(index.shards) for index in manifest.splits.values()] == [10, 2, 2]
    assert 0.12 < manifest.mean < 0.14
    verify(tmp_path / "set")
