"""A whole set: right content, the same bytes everywhere, whole or absent."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from data_prep.omniglot import decode_drawing
from data_prep.shard_set import shard_set
from data_prep.shrink import shrink
from data_prep.verify import verify
from seqgen.core.errors import BadInput, OperationalError
from seqgen.data.manifest import read_manifest
from seqgen.data.shards import read_shard

ROOT = Path(__file__).parents[2]


def _digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def _samples(directory: Path, split: str):
    index = read_manifest(directory).splits[split]
    return [sample for shard in index.shards for sample in read_shard(directory, shard)]


def test_a_set_holds_every_drawing_once_and_the_manifest_says_so(make, small_raw, small_set):
    import zipfile

    manifest = read_manifest(small_set)
    counts = {split: index.images for split, index in manifest.splits.items()}
    assert counts == {"train": 12 * 20, "valid": 1 * 20, "test": 64 * 20}
    assert (manifest.height, manifest.width, manifest.levels) == (28, 28, 2)
    assert "NOT Omniglot" in manifest.title
    assert [source.name for source in manifest.sources] == ["images_background.zip", "images_evaluation.zip"]
    pixels = np.concatenate([images for images, _ in _samples(small_set, "train")])
    assert manifest.mean == pixels.mean()
    with zipfile.ZipFile(small_raw / "omniglot_strokes/images_background.zip") as archive:
        for images, meta in _samples(small_set, "train") + _samples(small_set, "valid"):
            folder = f"images_background/{meta['concept']}/"
            names = sorted(name for name in archive.namelist() if name.startswith(folder))
            raw = np.stack([decode_drawing(archive.read(name), name) for name in names])
            assert np.array_equal(images, shrink(raw, 28))
    concepts = [meta["concept"] for _, meta in _samples(small_set, "train")]
    assert tuple(concepts) == manifest.splits["train"].concepts
    assert "Ünïcode/character01" in {*concepts, *manifest.splits["valid"].concepts}
    verify(small_set)


def test_wrong_raw_files_leave_nothing(make, tmp_path):
    with pytest.raises(BadInput, match="not fetched"):
        shard_set(make.data, tmp_path / "raw", tmp_path / "set")
    raw = make.strokes(tmp_path / "raw")
    path = raw / "omniglot_strokes/images_evaluation.zip"
    members = make.character("images_evaluation/EvalA/character01")
    members["images_evaluation/EvalA/character01/0001_05.png"] = make.png(mode="L")
    make.zip(path, members)
    for processes in (1, 2):
        with pytest.raises(BadInput, match="EvalA/character01, drawer 5: L"):
            shard_set(make.data, raw, tmp_path / "set", processes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def test_a_place_that_cannot_be_written_is_one_error(make, small_raw, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OperationalError, match="cannot be written"):
        shard_set(make.data, small_raw, tmp_path / "file" / "set", processes=1)
