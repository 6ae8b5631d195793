"""Every damage a tar can take is found and named, also where stock webdataset says nothing."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest

from seqgen.core.errors import OperationalError
from seqgen.core.files import canonical_digest, canonical_json
from seqgen.data.shards import encode_sample, read_shard, write_shard

KEYS = [f"00000{n}-Alpha_character0{n}" for n in range(4)]
HEADER, BLOCK = 512, 512


def _meta(**changes):
    return {
        "dataset": "omniglot",
        "alphabet": "Älpha",
        "character": "character01",
        "concept": "Älpha/character01",
        "drawers": [1, 2, 3],
        "labels": None,
    } | changes


def _images(seed: int, levels: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, levels, (3, 28, 28), dtype=np.uint8)


def _sample(n: int) -> tuple[str, bytes, bytes]:
    return KEYS[n], *encode_sample(_images(n), 2, _meta())


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "train-000000.tar"
    write_shard(path, [_sample(n) for n in range(4)])
    return path


def _offset(path, name: str) -> tuple[int, int]:
    """Where a member's header starts, and its size."""
    with tarfile.open(path) as tar:
        member = tar.getmember(name)
        return member.offset, member.size


def _tar(path, members: dict[str, bytes] | list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("levels", [2, 256])
def test_what_is_written_is_read(tmp_path, levels):
    images = _images(0, levels)
    meta = _meta(labels=[0, 5, 9], drawers=None)
    write_shard(tmp_path / "x.tar", [("000000", *encode_sample(images, levels, meta))])
    [(found, found_meta)] = list(read_shard(tmp_path / "x.tar"))
    assert found.dtype == np.uint8
    assert np.array_equal(found, images)
    assert {key: found_meta[key] for key in meta} == meta
    assert found_meta["shape"] == [3, 28, 28]


def test_stock_webdataset_reads_the_same(shard):
    webdataset = pytest.importorskip("webdataset")
    theirs = list(webdataset.WebDataset(str(shard), shardshuffle=False).decode("pill"))
    ours = list(read_shard(shard))
    assert [sample["__key__"] for sample in theirs] == KEYS
    for sample, (images, meta) in zip(theirs, ours, strict=True):
        assert sample["json"] == meta
        assert np.array_equal(np.asarray(sample["png"]) > 0, images.reshape(-1, 28) > 0)


def test_the_bytes_carry_no_time_user_or_mode_of_the_writer(shard):
    with tarfile.open(shard) as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
            assert member.mode == 0o644


def _message(path) -> str:
    with pytest.raises(OperationalError) as caught:
        list(read_shard(path))
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_cut_between_samples_is_found(shard):
    offset, _ = _offset(shard, f"{KEYS[2]}.png")
    shard.write_bytes(shard.read_bytes()[:offset])
    assert f"after {KEYS[1]}.json" in _message(shard)


def test_a_cut_inside_a_sample_is_found(shard):
    offset, _ = _offset(shard, f"{KEYS[2]}.json")
    shard.write_bytes(shard.read_bytes()[:offset])
    assert f"{KEYS[2]}.png" in _message(shard)


@pytest.mark.parametrize("kept", [100, 511])
def test_a_cut_inside_a_header_is_found(shard, kept):
    offset, _ = _offset(shard, f"{KEYS[2]}.json")
    shard.write_bytes(shard.read_bytes()[: offset + kept])
    assert f"{KEYS[2]}.png" in _message(shard)


def test_a_cut_inside_data_is_found(shard):
    offset, _ = _offset(shard, f"{KEYS[2]}.png")
    shard.write_bytes(shard.read_bytes()[: offset + HEADER + 50])
    assert KEYS[1] in _message(shard) or KEYS[2] in _message(shard)


def test_only_the_end_of_archive_missing_is_found(shard):
    offset, size = _offset(shard, f"{KEYS[3]}.json")
    end = offset + HEADER + -(-size // BLOCK) * BLOCK
    shard.write_bytes(shard.read_bytes()[:end])
    assert f"after {KEYS[3]}.json" in _message(shard)


def test_every_flipped_bit_is_found_and_its_sample_named(shard):
    """Header, payload and padding of a PNG and of a JSON, and the end of the archive: byte by byte."""
    whole = shard.read_bytes()
    for suffix in ("png", "json"):
        offset, size = _offset(shard, f"{KEYS[2]}.{suffix}")
        end = offset + HEADER + -(-size // BLOCK) * BLOCK
        for position in [*range(offset, offset + HEADER, 7), *range(offset + HEADER, end, 3)]:
            shard.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
            message = _message(shard)
            assert KEYS[2] in message or KEYS[1] in message, (position, message)
            assert KEYS[0] not in message
    shard.write_bytes(whole[:-5] + b"\4" + whole[-4:])
    assert f"after {KEYS[3]}.json" in _message(shard)


@pytest.mark.parametrize("content", [b"", bytes(10240), b"not a tar" * 1000])
def test_what_is_no_tar_is_refused(shard, content):
    shard.write_bytes(content)
    if content == bytes(10240):
        assert list(read_shard(shard)) == []  # an empty archive is whole; the manifest has its counts
    else:
        _message(shard)


def test_a_missing_file_is_operational(tmp_path):
    assert "cannot be read" in _message(tmp_path / "none.tar")


def test_interleaved_repeated_half_and_foreign_members_are_refused(tmp_path):
    (a, a_png, a_json), (b, b_png, b_json) = _sample(0), _sample(1)
    path = tmp_path / "x.tar"
    for members, named in [
        ([(f"{a}.png", a_png), (f"{b}.png", b_png), (f"{a}.json", a_json), (f"{b}.json", b_json)], a),
        ([(f"{a}.json", a_json), (f"{a}.png", a_png)], f"{a}.json"),
        ([(f"{a}.png", a_png)], f"{a}.png"),
        ([(f"{a}.png", a_png), (f"{a}.json", a_json)] * 2, "stands twice"),
        ([(f"{a}.png", a_png), (f"{a}.json", a_json), (f"{a}.pkl", b"x")], f"{a}.pkl"),
        ([(f"{a}.pth", b"x"), (f"{a}.png", a_png), (f"{a}.json", a_json)], f"{a}.pth"),
        ([(f"{a}.b.png", a_png), (f"{a}.b.json", a_json)], f"{a}.b.png"),
        ([(".png", a_png), (".json", a_json)], ".png"),
    ]:
        _tar(path, members)
        assert named in _message(path)


def test_links_in_a_shard_are_refused(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    assert "a.png: not a plain file" in _message(tmp_path / "x.tar")


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
    ],
)
def test_fields_that_do_not_fit_are_refused_even_when_signed(tmp_path, change, problem):
    key, png, text = _sample(0)
    fields = {k: v for k, v in json.loads(text).items() if k != "digest"} | change
    signed = canonical_json({**fields, "digest": canonical_digest(fields)}).encode()
    _tar(tmp_path / "x.tar", {f"{key}.png": png, f"{key}.json": signed})
    assert problem in _message(tmp_path / "x.tar")
