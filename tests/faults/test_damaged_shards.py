"""Faults of shards: what is refused, by which name, what is left out, and what is left behind."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from webdataset import WebDataset

from data_prep.damage import damage, leave_out_damaged
from data_prep.shard_files import write_shard
from data_prep.strict_tar import read_strictly
from data_prep.verify import verify
from pipelines.artifacts.places import places
from pipelines.artifacts.shards import checked_manifest
from pipelines.tracking.lineage import lineage_tags
from seqgen import training
from seqgen.core.errors import OperationalError
from seqgen.data.manifest import read_manifest
from seqgen.data.shards import read_shard
from tests.samples import KEYS, some_sample, write_tar
from tests.sets import digests, training_steps, write_digits
from tests.verb_process import verb

BLOCK = tarfile.BLOCKSIZE

# 33: damaged shards; the second column is what stock webdataset makes of them


def _at(tar: bytes, member: str) -> int:
    return tar.index(member.encode())


def _flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]


def _stock(*paths: Path) -> str:
    """What stock webdataset gives: the number of each sample, with its members where it is not whole; its error."""
    found = []
    try:
        for sample in WebDataset([str(path) for path in paths], shardshuffle=False):
            members = {name for name in sample if not name.startswith("__")}
            number = sample["__key__"][5:6]
            found.append(number if members == {"png", "json"} else f"{number}:{'+'.join(sorted(members))}")
    except (tarfile.TarError, ValueError) as error:
        found.append(type(error).__name__)
    return " ".join(found)


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str, str]] = {
    "cut between samples": (lambda tar: tar[: _at(tar, f"{KEYS[2]}.png")], "0 1", f"after {KEYS[1]}.json"),
    "cut inside a sample": (
        lambda tar: tar[: _at(tar, f"{KEYS[2]}.json")],
        "0 1 2:png",
        f"after {KEYS[2]}.png",
    ),
    "cut inside a header": (
        lambda tar: tar[: _at(tar, f"{KEYS[2]}.json") + 100],
        "0 1 2:png",
        f"after {KEYS[2]}.png",
    ),
    "bit flipped in a header": (
        lambda tar: _flipped(tar, _at(tar, f"{KEYS[1]}.png") + 130),
        "0",
        f"after {KEYS[0]}.json",
    ),
    "bit flipped in a payload": (
        lambda tar: _flipped(tar, _at(tar, f"{KEYS[1]}.png") + BLOCK + 90),
        "0 1 2 3",
        f"{KEYS[1]}.png: damaged (sha256 differs)",
    ),
    "bit flipped in padding": (
        lambda tar: _flipped(tar, _at(tar, f"{KEYS[1]}.png") - 1),
        "0 1 2 3",
        f"{KEYS[0]}.json: bytes in its padding",
    ),
    "cut inside data": (
        lambda tar: tar[: _at(tar, f"{KEYS[2]}.png") + BLOCK + 50],
        "0 ReadError",
        f"{KEYS[2]}.png: cut short",
    ),
    "no end of archive": (lambda tar: tar[: _end(tar)], "0 1 2 3", f"after {KEYS[3]}.json"),
    "one byte cut": (lambda tar: tar[:-1], "0 1 2 3", "size or sha256"),
    "something after it": (lambda tar: tar + bytes(BLOCK), "0 1 2 3", "size or sha256"),
    "empty": (lambda tar: b"", "ReadError", "after the start"),
    "not a tar": (lambda tar: b"not a tar" * 1000, "ReadError", "after the start"),
    "nothing in it": (lambda tar: bytes(10240), "ValueError", "size or sha256"),
}


def _end(tar: bytes) -> int:
    """Where the last member ends, before the zeros that end an archive."""
    return -(-len(tar.rstrip(b"\0")) // BLOCK) * BLOCK


@pytest.mark.parametrize("name", DAMAGES)
def test_33_every_damage_of_a_shard_is_found_and_its_member_named(tmp_path, name):
    change, stock, member = DAMAGES[name]
    path = tmp_path / "train-000000.tar"
    entry = write_shard(path, [some_sample(n) for n in range(4)])
    path.write_bytes(change(path.read_bytes()))
    assert _stock(path) == stock
    with pytest.raises(OperationalError, match=r"train-000000\.tar: damaged .*seqgen verify"):
        next(read_shard(tmp_path, entry))  # not one sample of it
    problem = damage(tmp_path, [entry])[entry.name]
    assert str(path) in problem
    assert member in problem


def test_33_a_shard_that_is_gone_or_another_s_is_found(tmp_path):
    entry = write_shard(tmp_path / "train-000000.tar", [some_sample(0)])
    other = write_shard(tmp_path / "train-000001.tar", [some_sample(1)])
    (tmp_path / other.name).replace(tmp_path / entry.name)
    problems = damage(tmp_path, [entry, other])
    assert "size or sha256" in problems[entry.name]
    assert "train-000001.tar: missing" in problems[other.name]


A, B = some_sample(0), some_sample(1)
PNG, JSON = (f"{A.key}.png", A.png), (f"{A.key}.json", A.json)
OTHER_PNG, OTHER_JSON = (f"{B.key}.png", B.png), (f"{B.key}.json", B.json)


@pytest.mark.parametrize(
    ("members", "stock", "named"),
    [
        ([PNG, OTHER_PNG, JSON, OTHER_JSON], "0:png 1:png 0:json 1:json", A.key),
        ([PNG, JSON, OTHER_PNG], "0 1:png", f"{B.key}.png"),
        ([JSON, PNG], "0", f"{A.key}.json"),
        ([PNG, JSON] * 2, "ValueError", "stands twice"),
        ([PNG, JSON, (f"{A.key}.pkl", b"x")], "0:json+pkl+png", f"{A.key}.pkl"),
        ([(f"{A.key}.pth", b"x"), PNG, JSON], "0:json+png+pth", f"{A.key}.pth"),
        ([(f"{A.key}.b.png", A.png), (f"{A.key}.b.json", A.json)], "0:b.json+b.png", f"{A.key}.b.png"),
    ],
)  # fmt: skip
def test_33_members_that_are_no_samples_are_named_also_in_a_tar_that_is_whole(
    tmp_path, members, stock, named
):
    path = tmp_path / "train-000000.tar"
    write_tar(path, members)
    assert _stock(path) == stock
    assert named in _message(path)


def test_33_a_half_sample_is_not_joined_with_the_next_shard_s(tmp_path):
    """Nor does this release of webdataset: it gives two halves, and says nothing."""
    first, second = tmp_path / "train-000000.tar", tmp_path / "train-000001.tar"
    write_tar(first, [PNG])
    write_tar(second, [JSON, OTHER_PNG, OTHER_JSON])
    assert _stock(first, second) == "0:png 0:json 1"
    assert f"{A.key}.png" in _message(first)
    assert f"{A.key}.json" in _message(second)


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "train-000000.tar"
    write_shard(path, [some_sample(n) for n in range(4)])
    return path


def _message(path) -> str:
    with pytest.raises(OperationalError) as caught:
        list(read_strictly(path))
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_33_every_flipped_bit_is_found_and_its_sample_named(shard):
    """Header, payload and padding of a PNG and of a JSON, and the end of the archive: byte by byte."""
    whole = shard.read_bytes()
    for suffix in ("png", "json"):
        with tarfile.open(shard) as tar:
            member = tar.getmember(f"{KEYS[2]}.{suffix}")
        offset, data = member.offset, member.offset + BLOCK
        end = data + -(-member.size // BLOCK) * BLOCK
        for position in [*range(offset, data, 7), *range(data, end, 3)]:
            shard.write_bytes(_flipped(whole, position))
            message = _message(shard)
            assert KEYS[2] in message or KEYS[1] in message, (position, message)
            assert KEYS[0] not in message
        shard.write_bytes(whole)
    shard.write_bytes(whole[:-5] + b"\4" + whole[-4:])
    assert f"after {KEYS[3]}.json" in _message(shard)


def test_33_links_in_a_shard_are_refused(tmp_path):
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            info = tarfile.TarInfo("a.png")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        assert "a.png: not a plain file" in _message(tmp_path / "x.tar")


def _flip_a_pixel(path: Path) -> str:
    """Flip a bit in the first picture of a shard; the member's name."""
    with tarfile.open(path) as tar:
        member = tar.getmembers()[0]
    path.write_bytes(_flipped(path.read_bytes(), member.offset_data + 60))
    return member.name


def test_33_a_training_on_a_damaged_shard_is_refused_with_shard_and_member(recipe, tmp_path):
    shards = places(recipe).shards
    write_digits(shards, shards=4)
    member = _flip_a_pixel(shards / "train-000002.tar")
    done = verb(tmp_path, "train", "--recipe", "tiny.yaml")
    assert done.returncode == 1
    assert f"train-000002.tar: {member}: damaged" in done.stderr
    assert "--on-bad-shard skip" in done.stderr
    assert not (tmp_path / ".seqgen").exists()


def test_33_damaged_training_shards_are_left_out_when_asked_counted_and_told(recipe, tmp_path):
    shards = places(recipe).shards
    write_digits(shards, shards=4)
    whole = read_manifest(shards)
    member = _flip_a_pixel(shards / "train-000001.tar")
    (shards / "train-000003.tar").unlink()

    refused = verb(tmp_path, "verify", "--recipe", "tiny.yaml")
    assert refused.returncode == 1
    done = verb(tmp_path, "verify", "--recipe", "tiny.yaml", "--on-bad-shard", "skip")
    assert done.returncode == 0, done.stderr
    assert f"left out: {shards}/train-000001.tar: {member}: damaged (sha256 differs)" in done.stdout
    assert f"left out: {shards}/train-000003.tar: missing" in done.stdout
    assert "2 damaged shards left out, 32 images" in done.stdout

    # Another set, which says so wherever a run or a model names its data.
    left = checked_manifest(recipe)
    assert left.digest != whole.digest
    assert left.splits["train"].images == 32
    assert left.left_out == tuple(whole.splits["train"].shards[n] for n in (1, 3))
    told = "without 2 damaged shards (32 images)"
    assert told in lineage_tags(recipe, left)["seqgen.data"]
    assert left.splits["valid"] == whole.splits["valid"], "what trainings are compared on"
    assert (shards / "train-000001.tar.bad").is_file()
    verify(shards)

    # Every rank makes the same number of steps, by the manifest alone.
    together = training_steps(shards, recipe, 4)
    assert {len(steps) for steps in together} == {32 // 16}
    [alone] = training_steps(shards, recipe, 1)
    for step, batch in enumerate(alone):
        assert torch.cat([rank[step] for rank in together]).equal(batch)
    training.run(recipe, shards)

    # It stays as it is, until another one is damaged.
    assert leave_out_damaged(shards) == (left, {})
    _flip_a_pixel(shards / "train-000002.tar")
    third, problems = leave_out_damaged(shards)
    assert list(problems) == ["train-000002.tar"]
    assert "without 3 damaged shards (48 images)" in third.title
    assert third.title.count("without") == 1


def test_33_a_training_leaves_damaged_shards_out_when_it_is_asked_to(recipe, tmp_path):
    shards = places(recipe).shards
    write_digits(shards, shards=4)
    _flip_a_pixel(shards / "train-000002.tar")
    larger = ("--set", "train.batch=64")  # than what is left: it ends where it is about to start
    done = verb(tmp_path, "train", "--recipe", "tiny.yaml", "--on-bad-shard", "skip", *larger)
    assert done.returncode == 2
    assert "train.batch=64 exceeds the 48 training images" in done.stderr
    assert "1 damaged shard left out, 16 images" in done.stdout
    assert [shard.name for shard in checked_manifest(recipe).left_out] == ["train-000002.tar"]


def test_33_what_trainings_are_compared_on_is_never_left_out(recipe):
    shards = places(recipe).shards
    write_digits(shards, shards=2)
    before = digests(shards)
    for name in ("train-000000.tar", "train-000001.tar"):
        _flip_a_pixel(shards / name)
    with pytest.raises(OperationalError, match="no training shard is whole"):
        leave_out_damaged(shards)
    write_digits(shards, shards=2)
    _flip_a_pixel(shards / "valid-000001.tar")
    with pytest.raises(OperationalError, match=r"valid-000001\.tar: .*only training shards can be left out"):
        leave_out_damaged(shards)
    assert digests(shards).keys() == before.keys()


def test_33_a_set_without_its_damaged_shard_is_the_same_whoever_was_cut_short(recipe):
    """Killed after the shard was set aside and before the manifest was written, the next one ends the same."""
    shards = places(recipe).shards
    write_digits(shards, shards=4)
    _flip_a_pixel(shards / "train-000001.tar")
    shutil.copytree(shards, shards.with_name("other"))
    (shards / "train-000001.tar").rename(shards / "train-000001.tar.bad")
    assert leave_out_damaged(shards)[0] == leave_out_damaged(shards.with_name("other"))[0]
    assert digests(shards) == digests(shards.with_name("other"))
