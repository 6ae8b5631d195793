"""Every damage a tar can take is found and its member named, also where stock webdataset says nothing."""

from __future__ import annotations

import tarfile

import pytest

from data_prep.shard_files import write_shard
from data_prep.strict_tar import read_strictly
from seqgen.core.errors import OperationalError
from tests.samples import KEYS, some_sample, write_tar

HEADER, BLOCK = 512, 512


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "train-000000.tar"
    write_shard(path, [some_sample(n) for n in range(4)])
    return path


def _offset(path, name: str) -> tuple[int, int]:
    """Where a member's header starts, and its size."""
    with tarfile.open(path) as tar:
        member = tar.getmember(name)
        return member.offset, member.size


def _message(path) -> str:
    with pytest.raises(OperationalError) as caught:
        list(read_strictly(path))
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
        assert list(read_strictly(shard)) == []  # an empty archive is whole; the manifest has its counts
    else:
        _message(shard)


def test_a_missing_file_is_operational(tmp_path):
    assert "cannot be read" in _message(tmp_path / "none.tar")


def test_interleaved_repeated_half_and_foreign_members_are_refused(tmp_path):
    (a, a_png, a_json, _), (b, b_png, b_json, _) = some_sample(0), some_sample(1)
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
        write_tar(path, members)
        assert named in _message(path)


def test_links_in_a_shard_are_refused(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    assert "a.png: not a plain file" in _message(tmp_path / "x.tar")
