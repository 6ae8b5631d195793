"""Shards read by webdataset's pipeline: nothing of a damaged one, or of one that the manifest does not confirm."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from data_prep.shard_files import EncodedSample, encode_sample, write_shard
from data_prep.strict_tar import read_strictly
from seqgen.core.errors import OperationalError
from seqgen.core.files import canonical_digest, canonical_json
from seqgen.data.manifest import Shard
from seqgen.data.shards import read_shard
from tests.samples import KEYS, some_images, some_meta, some_sample, write_tar

NAME = "train-000000.tar"
BLOCK = tarfile.BLOCKSIZE


def sealed(path: Path, samples: int, images: int) -> Shard:
    """A manifest entry for the file as it is, as someone who knows how might make it."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return Shard(name=path.name, sha256=digest, bytes=len(content), samples=samples, images=images)


def refusal(directory: Path, shard: Shard) -> str:
    """What is said of a shard of which something is wrong."""
    with pytest.raises(OperationalError) as caught:
        list(read_shard(directory, shard))
    assert str(directory / shard.name) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("levels", [2, 256])
def test_what_is_written_is_read(tmp_path: Path, levels: int):
    images = some_images(0, levels)
    meta = some_meta(labels=[0, 5, 9], drawers=None)
    shard = write_shard(tmp_path / NAME, [encode_sample("000000", images, levels, meta)])
    [(found, found_meta)] = list(read_shard(tmp_path, shard))
    assert found.dtype == np.uint8
    assert np.array_equal(found, images)
    assert {key: found_meta[key] for key in meta} == meta
    assert found_meta["shape"] == [3, 28, 28]


@pytest.mark.parametrize("name", ["pipe:cat x", "s3:", "{a,b}", "a%d"])
def test_it_is_read_wherever_it_lies_as_the_strict_reader_reads_it(tmp_path: Path, name: str):
    """webdataset would run, fetch or expand some of these names: it is given bytes, not names."""
    (tmp_path / name).mkdir()
    shard = write_shard(tmp_path / name / NAME, [some_sample(n) for n in range(4)])
    ours, strict = list(read_shard(tmp_path / name, shard)), list(read_strictly(tmp_path / name / NAME))
    assert len(ours) == 4
    for (images, meta), (strict_images, strict_meta) in zip(ours, strict, strict=True):
        assert np.array_equal(images, strict_images)
        assert meta == strict_meta


def test_a_missing_shard_and_one_that_is_no_file_are_named(tmp_path: Path):
    shard = write_shard(tmp_path / NAME, [some_sample(0)])
    (tmp_path / NAME).unlink()
    assert "missing" in refusal(tmp_path, shard)
    (tmp_path / NAME).mkdir()
    assert "cannot be read" in refusal(tmp_path, shard)


def pairs(*samples: EncodedSample) -> list[tuple[str, bytes]]:
    """The members of samples, in order."""
    return [member for s in samples for member in ((f"{s.key}.png", s.png), (f"{s.key}.json", s.json))]


A, B = some_sample(0), some_sample(1)


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([pairs(A)[0], pairs(B)[0], pairs(A)[1], pairs(B)[1]], f"{KEYS[0]}: its members are ['png']"),
        ([*pairs(A), *pairs(B)[:1]], f"{KEYS[1]}: its members are ['png']"),
        (
            [*pairs(A), (f"{KEYS[0]}.pkl", b"x"), *pairs(B)],
            f"{KEYS[0]}: its members are ['json', 'pkl', 'png']",
        ),
        ([*pairs(A), (f"{KEYS[1]}.pth", b"x"), *pairs(B)], f"{KEYS[1]}: its members are"),
        (
            [(f"{KEYS[0]}.b.png", A.png), (f"{KEYS[0]}.b.json", A.json)],
            f"{KEYS[0]}: its members are ['b.json'",
        ),
        ([*pairs(A), (f"{KEYS[0]}.png", A.png)], f"{KEYS[0]}.png: duplicate file name"),
        ([(".png", A.png), (".json", A.json)], "0 samples, 0 images; the manifest has 2, 6"),
        (pairs(A), "1 samples, 3 images; the manifest has 2, 6"),
        (pairs(A, B, some_sample(2)), "3 samples, 9 images; the manifest has 2, 6"),
    ],
)
def test_members_that_are_no_samples_are_refused_in_a_sealed_shard_too(tmp_path: Path, members, problem: str):
    write_tar(tmp_path / NAME, members)
    assert problem in refusal(tmp_path, sealed(tmp_path / NAME, 2, 6))


@pytest.mark.parametrize("content", [b"", b"not a tar" * 1000])
def test_a_sealed_file_that_is_no_tar_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / NAME).write_bytes(content)
    assert "not a tar of samples" in refusal(tmp_path, sealed(tmp_path / NAME, 0, 0))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"shape": [3, 28, 27]}, "not 1-bit or grey of shape"),
        ({"shape": [0, 28, 28]}, "shape"),
        ({"shape": "3"}, "shape"),
        ({"shape": [3, 28, 10**9]}, "shape"),
        ({"labels": [1]}, "labels"),
        ({"drawers": "abc"}, "drawers"),
        ({"extra": 1}, "keys"),
        ({"png_sha256": "0" * 64}, ".png: damaged (sha256 differs)"),
    ],
)
def test_fields_that_do_not_fit_are_refused_even_when_signed(tmp_path: Path, change: dict, problem: str):
    fields = {k: v for k, v in json.loads(A.json).items() if k != "digest"} | change
    signed = canonical_json({**fields, "digest": canonical_digest(fields)}).encode()
    write_tar(tmp_path / NAME, [(f"{A.key}.png", A.png), (f"{A.key}.json", signed)])
    assert problem in refusal(tmp_path, sealed(tmp_path / NAME, 1, 3))


def test_fields_changed_after_they_were_signed_are_damage(tmp_path: Path):
    text = A.json.replace(b'"character01"', b'"character02"')
    assert text != A.json
    write_tar(tmp_path / NAME, [(f"{A.key}.png", A.png), (f"{A.key}.json", text)])
    assert f"{A.key}.json: damaged (digest differs)" in refusal(tmp_path, sealed(tmp_path / NAME, 1, 3))
