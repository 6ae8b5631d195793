"""Arrays from Python: the same shards and manifest as of a folder of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from data_prep.arrays import shard_arrays, write_images
from data_prep.fetch import fetch
from data_prep.shard_set import shard_set
from data_prep.verify import verify
from seqgen.core.errors import BadInput
from seqgen.data.images import load_split
from seqgen.data.settings import DataConfig

SIDE = 8


def settings(folder: Path, **changes: object) -> DataConfig:
    given = {"source": "folder", "path": str(folder), "size": SIDE, "binarise": "grey"}
    return DataConfig(**given | changes)  # type: ignore[arg-type]


def digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


@pytest.fixture
def levels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, SIDE, SIDE), np.uint8)


def test_every_array_is_an_image_of_the_set_level_by_level(levels: np.ndarray, tmp_path: Path):
    manifest = shard_arrays(settings(tmp_path / "mine"), levels, None, tmp_path / "made", 1)
    verify(tmp_path / "made/shards")
    found = [load_split(tmp_path / "made/shards", split).images.numpy() for split in manifest.splits]
    assert {image.tobytes() for image in np.concatenate(found)} == {image.tobytes() for image in levels}
    assert sum(map(len, found)) == len(levels)


def test_arrays_with_labels_are_characters_and_their_bits_the_same(levels: np.ndarray, tmp_path: Path):
    bits = levels > 127
    labels = [f"Latin/c{number % 6}" for number in range(len(bits))]
    data = settings(tmp_path / "mine", split="concepts", binarise="static")
    manifest = shard_arrays(data, bits, labels, tmp_path / "made", 1)
    assert manifest.levels == 2
    train = load_split(tmp_path / "made/shards", "train")
    for concept, name in enumerate(train.concept_names):
        expected = bits[[number for number, label in enumerate(labels) if label == name]]
        assert np.array_equal(train.images[train.concepts == concept].numpy(), expected)
    # once more: nothing changes, and by the verbs' own functions it is the same set
    before = digests(tmp_path / "made/shards")
    assert shard_arrays(data, bits, labels, tmp_path / "made", 1) == manifest
    assert digests(tmp_path / "made/shards") == before
    fetch(["folder"], tmp_path / "raw", folder=data.path, notice=lambda line: None)
    shard_set(data, tmp_path / "raw", tmp_path / "shards", processes=1)
    assert digests(tmp_path / "shards") == before


def test_floats_and_dark_paper_give_the_same_pixels(levels: np.ndarray, tmp_path: Path):
    for name, images, paper in (("one", levels / 255, "light"), ("two", levels.astype(np.int64), "dark")):
        shard_arrays(settings(tmp_path / name, paper=paper), images, None, tmp_path / f"made-{name}", 1)
        train = load_split(tmp_path / f"made-{name}/shards", "train")
        assert {image.tobytes() for image in train.images.numpy()} <= {image.tobytes() for image in levels}


@pytest.mark.parametrize(
    ("images", "labels", "problem"),
    [
        (np.zeros((4, 4)), None, "images of shape [4, 4]: give [n, H, W]"),
        (np.zeros((0, 4, 4)), None, "none of them 0"),
        (np.full((1, 4, 4), 1.5), None, "from 1.5 to 1.5: give 0 (paper) to 1 (ink)"),
        (np.full((1, 4, 4), np.nan), None, "give 0 (paper) to 1 (ink)"),
        (np.full((1, 4, 4), 256), None, "give 0 (paper) to 255 (ink)"),
        (np.eye(4, dtype=np.uint8)[None], None, "integers of uint8 up to 1: give bits as bool"),
        (np.full((1, 4, 4), "x"), None, "give bits, integers 0 to 255 or floats 0 to 1"),
        (np.zeros((2, 4, 4)), ["a"], "1 labels for 2 images"),
        (np.zeros((1, 4, 4)), ["../a"], "label '../a' of image 0: give a concept, or alphabet/concept"),
        (np.zeros((1, 4, 4)), ["/a"], "label '/a'"),
        (np.zeros((1, 4, 4)), ["a/b/c"], "label 'a/b/c'"),
        (np.zeros((1, 4, 4)), [""], "label ''"),
    ],
)
def test_what_is_no_image_and_no_label_is_refused(images, labels, problem: str, tmp_path: Path):
    with pytest.raises(BadInput) as caught:
        write_images(tmp_path / "mine", images, labels)
    assert problem in str(caught.value)
    assert not (tmp_path / "mine").exists()


def test_a_folder_of_other_images_is_left_alone(levels: np.ndarray, tmp_path: Path):
    write_images(tmp_path / "mine", levels[:3], None)
    before = digests(tmp_path / "mine")
    with pytest.raises(BadInput, match=r"holds other images \(000000\.png, 3 in all\); name another folder"):
        write_images(tmp_path / "mine", levels[3:6], None)
    assert digests(tmp_path / "mine") == before
    with pytest.raises(BadInput, match="a folder of this machine"):
        shard_arrays(DataConfig(source="mnist-5k", size=28, binarise="grey"), levels, None, tmp_path / "made")
