"""What write_shard writes: the same bytes on every run, as any reader of tars takes them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from webdataset import WebDataset

from data_prep.shard_files import EncodedSample, write_shard
from data_prep.strict_tar import read_strictly
from tests.samples import KEYS, some_sample

ROOT = Path(__file__).parents[2]
FIXED = [EncodedSample(f"{n:06d}-key", b"png" * 300 * n, b'{"n": 1}', n) for n in range(3)]
SHA256 = "c19b4af4f5c56898bf280dcbd46df1defdb66f0f289678e2f62fe2153fa58cb9"


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "train-000000.tar"
    write_shard(path, [some_sample(n) for n in range(4)])
    return path


def test_the_manifest_entry_is_that_of_the_file(tmp_path):
    entry = write_shard(tmp_path / "train-000003.tar", FIXED)
    content = (tmp_path / "train-000003.tar").read_bytes()
    assert (entry.name, entry.bytes, entry.samples, entry.images) == ("train-000003.tar", len(content), 3, 3)
    assert entry.sha256 == hashlib.sha256(content).hexdigest()


def test_the_bytes_are_those_of_every_earlier_release(tmp_path):
    """A set that is made again keeps its manifest's digest, by which runs and models know their data."""
    assert write_shard(tmp_path / "train-000000.tar", FIXED).sha256 == SHA256


def test_the_bytes_carry_no_time_user_or_mode_of_the_writer(shard):
    with tarfile.open(shard) as tar:
        assert tar.getnames() == [f"{key}.{suffix}" for key in KEYS for suffix in ("png", "json")]
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
            assert (member.mode, member.pax_headers) == (0o644, {})


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def samples():
        yield some_sample(0)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_shard(tmp_path / "train-000000.tar", samples())
    assert list(tmp_path.iterdir()) == []


def test_stock_webdataset_reads_the_same(shard):
    theirs = list(WebDataset(str(shard), shardshuffle=False).decode("pill"))
    ours = list(read_strictly(shard))
    assert [sample["__key__"] for sample in theirs] == KEYS
    for sample, (images, meta) in zip(theirs, ours, strict=True):
        assert sample["json"] == meta
        assert np.array_equal(np.asarray(sample["png"]) > 0, images.reshape(-1, 28) > 0)


def test_to_import_the_room_and_to_encode_needs_no_torch():
    script = (
        "import sys, numpy, data_prep.shard_set, data_prep.verify, data_prep.shard_files as files\n"
        "files.encode_sample('0', numpy.zeros((1, 2, 2), 'uint8'), 2, {})\n"
        "assert not {'torch', 'webdataset'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
