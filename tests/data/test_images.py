"""Reading a split back: what was written, and nothing that the manifest does not confirm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import seqgen.data
from seqgen.core.errors import BadInput, OperationalError
from seqgen.data.images import load_split
from seqgen.data.manifest import FILE_NAME, Manifest, read_manifest
from tests.sets import write_digits, write_strokes


def test_the_room_hands_out_its_reader_and_its_contract_needs_no_torch():
    script = (
        "import sys, seqgen.data.manifest, seqgen.data.settings, seqgen.data.shards\n"
        "assert not {'torch', 'webdataset'} & sys.modules.keys()\n"
        "from seqgen.data import ImageSet, Images, TrainingBatches, load_split\n"
        "assert 'webdataset' not in sys.modules\n"
        "assert load_split is sys.modules['seqgen.data.images'].load_split"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = seqgen.data.nothing


def test_a_split_comes_back_as_it_was_written(tmp_path: Path):
    written = write_strokes(tmp_path)
    images = load_split(tmp_path, "train")
    assert images.images.numpy().tolist() == written.tolist()
    assert images.levels == 2
    assert len(images.concept_names) == len(images) // 4
    assert images.concepts.bincount().tolist() == [4] * len(images.concept_names)
    assert set(images.alphabets.tolist()) == {0, 1}
    assert images.concept_names[int(images.concepts[0])] == "A0/c0"


def test_labels_of_a_chunk_are_the_concepts(tmp_path: Path):
    write_digits(tmp_path)
    images = load_split(tmp_path, "train")
    assert images.levels == 256
    assert images.concept_names == ("0", "1", "2", "3")
    assert images.concepts[:6].tolist() == [0, 1, 2, 3, 0, 1]
    assert images.alphabets.unique().tolist() == [-1]


def test_limit_takes_a_fixed_subset(tmp_path: Path):
    write_digits(tmp_path)
    small = load_split(tmp_path, "train", limit=12)
    assert len(small) == 12
    assert small.images.equal(load_split(tmp_path, "train", limit=12).images)


def test_a_split_that_is_not_there_is_named(tmp_path: Path):
    write_digits(tmp_path)
    with pytest.raises(BadInput, match="no split 'dev'; it has train, valid, test"):
        load_split(tmp_path, "dev")


def test_a_flipped_bit_in_a_shard_is_found(tmp_path: Path):
    write_digits(tmp_path)
    shard = tmp_path / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(OperationalError, match=r"train-000000\.tar: damaged"):
        load_split(tmp_path, "train")


def test_a_manifest_that_counts_otherwise_is_found(tmp_path: Path):
    write_digits(tmp_path)
    manifest = read_manifest(tmp_path).model_dump(mode="json")
    manifest["splits"]["train"]["images"] -= 1
    manifest["splits"]["train"]["shards"][0]["images"] -= 1
    (tmp_path / FILE_NAME).unlink()
    Manifest.model_validate(manifest).write(tmp_path)
    with pytest.raises(OperationalError, match=r"train-000000\.tar"):
        load_split(tmp_path, "train")
