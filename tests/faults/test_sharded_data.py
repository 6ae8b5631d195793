"""Faults of shards: what is refused, by which name, what is left out, and what is left behind."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from webdataset import WebDataset

from data_prep.damage import damage, leave_out_damaged
from data_prep.shard_files import write_shard
from data_prep.shard_set import shard_set
from data_prep.strict_tar import read_strictly
from data_prep.verify import verify
from pipelines.artifacts.places import places
from pipelines.artifacts.shards import checked_manifest
from pipelines.recipes import load_recipe
from pipelines.tracking.lineage import lineage_tags
from seqgen import training
from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.files import canonical_digest
from seqgen.data.batches import TrainingBatches
from seqgen.data.images import load_split
from seqgen.data.manifest import Shard, read_manifest
from seqgen.data.shards import read_shard
from seqgen.settings import Recipe
from tests.finished_run import tiny_recipe
from tests.raw_files import Make
from tests.samples import KEYS, some_sample, write_tar
from tests.sets import write_digits, write_strokes
from tests.verb_process import verb

ROOT = Path(__file__).parents[2]
BLOCK = tarfile.BLOCKSIZE


@pytest.fixture(scope="module")
def small_raw(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in's two archives, small."""
    return make.strokes(tmp_path_factory.mktemp("raw"))


@pytest.fixture
def small_set(make: Make, small_raw: Path, tmp_path: Path) -> Path:
    shard_set(make.data, small_raw, tmp_path / "set", processes=1)
    return tmp_path / "set"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe of digits in an empty working directory, with nothing of it made yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEQGEN_ARTIFACTS", raising=False)
    return load_recipe(str(tiny_recipe(tmp_path)))


def _digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


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
    with pytest.raises(OperationalError, match=r"train-000000\.tar: damaged .*pipelines\.verify"):
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


def _steps(shards: Path, recipe: Recipe, size: int) -> list[list[torch.Tensor]]:
    """The batches of an epoch of each of `size` ranks."""
    images = load_split(shards, "train")
    ranks = [
        TrainingBatches(images, recipe.data, 16, conditional=False, seed=0, rank=rank, size=size)
        for rank in range(size)
    ]
    return [[batches.at(0, step).x for step in range(batches.steps)] for batches in ranks]


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
    together = _steps(shards, recipe, 4)
    assert {len(steps) for steps in together} == {32 // 16}
    [alone] = _steps(shards, recipe, 1)
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
    before = _digests(shards)
    for name in ("train-000000.tar", "train-000001.tar"):
        _flip_a_pixel(shards / name)
    with pytest.raises(OperationalError, match="no training shard is whole"):
        leave_out_damaged(shards)
    write_digits(shards, shards=2)
    _flip_a_pixel(shards / "valid-000001.tar")
    with pytest.raises(OperationalError, match=r"valid-000001\.tar: .*only training shards can be left out"):
        leave_out_damaged(shards)
    assert _digests(shards).keys() == before.keys()


def test_33_a_set_without_its_damaged_shard_is_the_same_whoever_was_cut_short(recipe):
    """Killed after the shard was set aside and before the manifest was written, the next one ends the same."""
    shards = places(recipe).shards
    write_digits(shards, shards=4)
    _flip_a_pixel(shards / "train-000001.tar")
    shutil.copytree(shards, shards.with_name("other"))
    (shards / "train-000001.tar").rename(shards / "train-000001.tar.bad")
    assert leave_out_damaged(shards)[0] == leave_out_damaged(shards.with_name("other"))[0]
    assert _digests(shards) == _digests(shards.with_name("other"))


# 34: cut short half-way, and repeated elsewhere


_SCRIPT = """
import os, sys
os.umask(int(sys.argv[3], 8))
from pathlib import Path
from seqgen.data.settings import DataConfig
from data_prep.shard_files import encode_sample, write_shard
from data_prep.shard_set import shard_set
from data_prep.verify import verify
data = DataConfig(source="omniglot-strokes", size=28, split="30-20", binarise="static")
if __name__ == "__main__":
    shard_set(data, Path(sys.argv[1]), Path(sys.argv[2]), processes=int(sys.argv[4]))
    verify(Path(sys.argv[2]))
"""


def test_34_the_bytes_do_not_depend_on_locale_zone_umask_hash_seed_or_processes(
    small_raw, small_set, tmp_path
):
    environments = [
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONHASHSEED": "1"}, "077", 1),
        ({"LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "2"}, "000", 2),
        ({"LC_ALL": "C.UTF-8", "TZ": "America/St_Johns", "PYTHONHASHSEED": "3"}, "027", 3),
    ]
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, str(small_raw), str(tmp_path / f"{n}"), umask, str(processes)],
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        for n, (environment, umask, processes) in enumerate(environments)
    ]
    assert [run.wait(120) for run in runs] == [0, 0, 0]
    for n in range(len(runs)):
        assert _digests(tmp_path / f"{n}") == _digests(small_set)
    assert not list(tmp_path.glob(".*"))


_KILLED = """
import os, signal, sys
from pathlib import Path
from data_prep import shard_set as module
from seqgen.data.settings import DataConfig
data = DataConfig(source="omniglot-strokes", size=28, split="30-20", binarise="static")
write, written = module.write_shard, []
def write_then_die(path, samples):
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(path)
    return write(path, samples)
module.write_shard = write_then_die
module.shard_set(data, Path(sys.argv[1]), Path(sys.argv[2]), processes=1)
"""


@pytest.mark.parametrize("before", ["absent", "another set"])
def test_34_killed_half_way_nothing_has_its_final_name_and_a_rerun_is_the_same(
    make, small_raw, small_set, tmp_path, before
):
    target = tmp_path / "out" / "shards"
    if before == "another set":
        shutil.copytree(small_set, target)
        (target / "manifest.json").write_text("{}")
    was = _digests(target) if target.exists() else None
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(small_raw), str(target)], cwd=ROOT, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert (_digests(target) if target.exists() else None) == was
    assert [path.name for path in target.parent.iterdir() if path != target] == [".shards.building"]
    shard_set(make.data, small_raw, target, processes=1)
    assert _digests(target) == _digests(small_set)
    assert [path.name for path in target.parent.iterdir()] == ["shards"]


# 35: sets that are too small for what is asked


def test_35_how_a_set_is_cut_into_shards_changes_nothing_whatever_the_ranks(recipe, tmp_path):
    write_digits(tmp_path / "one")
    write_digits(tmp_path / "many", shards=6)
    assert [shard.images for shard in read_manifest(tmp_path / "many").splits["train"].shards] == [16] * 4 + [
        0
    ] * 2
    verify(tmp_path / "many")
    [alone] = _steps(tmp_path / "one", recipe, 1)
    ranks = _steps(tmp_path / "one", recipe, 16)
    assert {len(steps) for steps in ranks} == {4}, "one shard, sixteen ranks"
    for step, batch in enumerate(alone):
        assert torch.cat([rank[step] for rank in ranks]).equal(batch)
    for one, many in zip(ranks, _steps(tmp_path / "many", recipe, 16), strict=True):
        assert all(a.equal(b) for a, b in zip(one, many, strict=True)), "empty shards among them"


def test_35_one_sample_is_enough(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(str(tiny_recipe(tmp_path)), ["train.batch=1", "train.workers=1"])
    shards = places(recipe).shards
    write_digits(shards, {"train": 1, "valid": 1, "test": 1})
    checked_manifest(recipe)
    rows: list[dict[str, float]] = []
    training.run(recipe, shards, on_epoch=lambda progress, save: rows.append(progress.metrics))
    assert np.isfinite(rows[-1]["valid/dynamic/free_energy"])


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        ({"train": 8, "valid": 8, "test": 8}, "train.batch=16 exceeds the 8 training images"),
        ({"train": 0, "valid": 8, "test": 8}, "train.batch=16 exceeds the 0 training images"),
        ({"train": 16, "valid": 0, "test": 8}, "no images in valid"),
    ],
)
def test_35_a_set_smaller_than_a_batch_or_empty_ends_with_2_before_ray_starts(
    recipe, tmp_path, counts, problem
):
    write_digits(places(recipe).shards, counts)
    done = verb(tmp_path, "train", "--recipe", "tiny.yaml")
    assert done.returncode == 2
    assert problem in done.stderr
    assert not (tmp_path / ".seqgen").exists()


# 36: shards that would run or fetch something


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self):
        return Path.touch, (self.made,)


@pytest.mark.parametrize("suffix", ["pkl", "pth"])
def test_36_a_pickle_in_a_shard_is_refused_and_not_run(tmp_path, suffix):
    made = tmp_path / "made"
    path = tmp_path / "train-000000.tar"
    write_tar(path, [PNG, JSON, (f"{A.key}.{suffix}", pickle.dumps(Evil(made)))])
    content = path.read_bytes()
    sealed = Shard(
        name=path.name, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content), samples=1, images=3
    )
    with pytest.raises(OperationalError, match=f"{A.key}: its members are .*{suffix}"):
        list(read_shard(tmp_path, sealed))
    with pytest.raises(OperationalError, match=rf"{A.key}\.{suffix}"):
        list(read_strictly(path))
    assert not made.exists()
    if suffix == "pkl":
        list(WebDataset(str(path), shardshuffle=False).decode())
        assert made.exists(), "what stock webdataset does with it"


@pytest.mark.parametrize(
    "address",
    [
        "pipe:touch made; cat",
        "http://127.0.0.1:9/train-000000.tar",
        "../train-000000.tar",
        "/x-000000.tar",
        "a\0.tar",
    ],
)
def test_36_an_address_in_the_list_of_shards_is_refused_and_not_asked(recipe, tmp_path, address):
    shards = places(recipe).shards
    write_digits(shards)
    asked = f"{address} {shards}/train-000000.tar" if address.startswith("pipe:") else address
    _seal(shards, lambda tree: tree["splits"]["train"]["shards"][0].update(name=asked))
    for check in (read_manifest, verify, lambda directory: load_split(directory, "train")):
        with pytest.raises(BadInput, match=r"manifest\.json: not a manifest"):
            check(shards)
    assert not (tmp_path / "made").exists()
    if address.startswith("pipe:"):
        assert len(list(WebDataset(asked, shardshuffle=False))) == 4
        assert (tmp_path / "made").exists(), "what stock webdataset does with it"


def _seal(directory: Path, change: Callable[[dict], object]) -> None:
    """Change the manifest and seal it again, as someone who knows how might."""
    path = directory / "manifest.json"
    tree = json.loads(path.read_text())
    change(tree)
    tree["digest"] = canonical_digest({key: value for key, value in tree.items() if key != "digest"})
    path.write_text(json.dumps(tree))


# 37: a character on both sides of a one-shot split


def test_37_a_concept_on_both_sides_is_refused_when_written_read_and_trained_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(str(tiny_recipe(tmp_path, conditional=True)))
    shards = places(recipe).shards
    write_strokes(shards)
    manifest = read_manifest(shards)
    leaked = manifest.splits["test"].concepts[0]
    train = manifest.splits["train"]
    splits = {**manifest.splits, "train": train.model_copy(update={"concepts": (*train.concepts, leaked)})}
    with pytest.raises(BadInput, match=f"'{leaked}' stands in both train and test"):
        manifest.model_copy(update={"splits": splits}).write(tmp_path / "leaky")
    assert not (tmp_path / "leaky").exists()
    _seal(shards, lambda tree: tree["splits"]["train"]["concepts"].append(leaked))
    for name in ("verify", "train"):
        done = verb(tmp_path, name, "--recipe", "tiny.yaml")
        assert done.returncode == 2
        assert "the one-shot split leaks" in done.stderr
    assert not (tmp_path / ".seqgen").exists()


def test_37_a_leak_that_the_manifest_hides_is_found_by_verify(tmp_path):
    """Characters of test that were put among those of train, under the names that the manifest has."""
    write_strokes(tmp_path)
    manifest = read_manifest(tmp_path)
    shutil.copy(tmp_path / "test-000000.tar", tmp_path / "valid-000000.tar")
    test = manifest.splits["test"]
    sealed = test.shards[0].model_copy(update={"name": "valid-000000.tar"})
    valid = manifest.splits["valid"].model_copy(update={"shards": (sealed,), "images": test.images})
    manifest.model_copy(update={"splits": {**manifest.splits, "valid": valid}}).write(tmp_path)
    with pytest.raises(OperationalError, match="the concepts of valid are not the manifest's"):
        verify(tmp_path)
