"""Sets that are published and streamed from there: a folder in the fast tests, a real S3 server in the slow ones."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data_prep.shard_files import encode_sample, write_shard
from pipelines.artifacts.places import places
from pipelines.artifacts.published import opened, publish_set, published_root, shard_cache
from pipelines.artifacts.shards import checked_manifest, shards_of
from pipelines.estimate import estimate
from pipelines.publish import publish
from pipelines.recipes import load_recipe
from pipelines.verify import verify
from seqgen import training
from seqgen.core.errors import BadInput, OperationalError
from seqgen.data.images import load_split
from seqgen.data.manifest import Manifest, SplitIndex, read_manifest
from seqgen.data.settings import DataConfig
from tests.fault_proxy import Answer, CutAnswer, FaultProxy
from tests.finished_run import tiny_recipe
from tests.s3_server import READER, S3Server
from tests.sets import write_digits
from tests.streamed_set import COUNTS, SIZE, recipe_of, write_set

ROOT = Path(__file__).parents[3]
SHARDS = len(COUNTS) + 2


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe's file; its shards are made."""
    monkeypatch.setenv("SEQGEN_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("SEQGEN_SHARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SEQGEN_SHARDS", raising=False)
    path = tmp_path / "streamed.yaml"
    tree = recipe_of(shuffle_shards=2).model_dump(mode="json", by_alias=True, exclude={"name"})
    path.write_text(yaml.safe_dump(tree))
    write_set(places(load_recipe(str(path))).shards)
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        server.client().create_bucket(Bucket="sets")
        yield server


@pytest.fixture
def proxy(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with FaultProxy(server.port) as proxy:
        for name, value in server.environment(endpoint=proxy.address).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        yield proxy


@pytest.fixture
def root(proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """SEQGEN_SHARDS, a prefix of its own on the server."""
    root = f"s3://sets/{tmp_path.name}"
    monkeypatch.setenv("SEQGEN_SHARDS", root)
    return root


def test_a_set_is_published_once_and_read_from_there(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    resolved, target = load_recipe(str(recipe)), tmp_path / "shared"
    assert shards_of(resolved) == places(resolved).shards
    monkeypatch.setenv("SEQGEN_SHARDS", str(target))
    for put in (SHARDS, 0):
        publish(str(recipe))
        assert f"shared/streamed: {put} of {SHARDS} shards put" in capsys.readouterr().out
    assert shards_of(resolved) == target / "streamed"
    assert checked_manifest(resolved) == read_manifest(places(resolved).shards)
    (target / "streamed" / "valid-000000.tar").unlink()
    with pytest.raises(OperationalError, match=r"valid-000000\.tar: missing"):
        checked_manifest(resolved)
    publish(str(recipe))
    assert f"1 of {SHARDS} shards put" in capsys.readouterr().out


def test_other_shards_than_those_made_here_are_refused(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    resolved = load_recipe(str(recipe))
    monkeypatch.setenv("SEQGEN_SHARDS", str(tmp_path / "shared"))
    with pytest.raises(BadInput, match="no manifest"):
        checked_manifest(resolved)
    publish(str(recipe))
    manifest = read_manifest(places(resolved).shards)
    manifest.model_copy(update={"title": "another"}).write(places(resolved).shards)
    with pytest.raises(BadInput, match=r"other shards than those made in .*seqgen publish --recipe streamed"):
        checked_manifest(resolved)


def test_a_damaged_shard_is_not_published_and_no_manifest_either(recipe: Path, tmp_path: Path):
    shards = places(load_recipe(str(recipe))).shards
    shard = shards / "train-000003.tar"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(OperationalError, match=r"train-000003\.tar: damaged"):
        publish_set(shards, str(tmp_path / "target"))
    assert not (tmp_path / "target" / "manifest.json").exists()


@pytest.mark.parametrize("root", ["http://host/path", "relative/path"])
def test_an_address_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch, root: str):
    monkeypatch.setenv("SEQGEN_SHARDS", root)
    with pytest.raises(BadInput, match=f"SEQGEN_SHARDS={root}: give an absolute path or s3://"):
        published_root()


def test_the_cache_is_the_user_s_and_10_gib_unless_it_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    for name in ("SEQGEN_SHARD_CACHE", "SEQGEN_SHARD_CACHE_BYTES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert (shard_cache().directory, shard_cache().limit) == (tmp_path / "seqgen" / "shards", 10 * 2**30)
    monkeypatch.setenv("SEQGEN_SHARD_CACHE_BYTES", "1000")
    assert shard_cache().limit == 1000
    monkeypatch.setenv("SEQGEN_SHARD_CACHE_BYTES", "10G")
    with pytest.raises(BadInput, match="SEQGEN_SHARD_CACHE_BYTES=10G: give a number of bytes"):
        shard_cache()
    monkeypatch.setenv("SEQGEN_SHARD_CACHE_BYTES", "")
    monkeypatch.setenv("SEQGEN_SHARD_CACHE", "relative")
    with pytest.raises(BadInput, match="SEQGEN_SHARD_CACHE=relative: give an absolute path"):
        shard_cache()


@pytest.mark.slow
def test_a_set_on_s3_is_published_manifest_last_and_gone_on_with(
    recipe: Path, root: str, server: S3Server, proxy: FaultProxy, capsys: pytest.CaptureFixture[str]
):
    client, resolved = server.client(), load_recipe(str(recipe))
    prefix = f"{root.removeprefix('s3://sets/')}/streamed/"
    refused = Answer(403, "AccessDenied")
    proxy.inject(refused, where=lambda one: one.method == "PUT" and "train-000005" in one.path, times=None)
    with pytest.raises(BadInput, match=r"train-000005\.tar: PutObject was answered AccessDenied"):
        publish(str(recipe))
    found = client.list_objects_v2(Bucket="sets", Prefix=prefix)["Contents"]
    names = [one["Key"].removeprefix(prefix) for one in found]
    assert names
    assert not {"manifest.json", "train-000005.tar"} & set(names)
    with pytest.raises(BadInput, match=r"streamed/manifest\.json: no manifest"):
        checked_manifest(resolved)
    proxy.heal()
    publish(str(recipe))
    assert f"{SHARDS - len(names)} of {SHARDS} shards put" in capsys.readouterr().out
    assert checked_manifest(resolved) == read_manifest(places(resolved).shards)
    shard = read_manifest(places(resolved).shards).splits["train"].shards[5]
    found = client.get_object(Bucket="sets", Key=prefix + shard.name)
    assert found["Metadata"]["sha256"] == shard.sha256
    assert found["Body"].read() == (places(resolved).shards / shard.name).read_bytes()
    client.delete_object(Bucket="sets", Key=f"{prefix}valid-000000.tar")
    with pytest.raises(OperationalError, match=r"valid-000000\.tar: missing; publish the set again"):
        checked_manifest(resolved)


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, 2])
def test_a_training_from_s3_with_a_cache_smaller_than_the_set_ends_with_the_same_bits(
    recipe: Path, root: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, window: int | None
):
    wanted = recipe_of(shuffle_shards=window)
    here = places(load_recipe(str(recipe))).shards
    publish(str(recipe))
    on_disk = training.run(wanted, here, threads=1)
    largest = max(shard.bytes for shard in read_manifest(here).splits["train"].shards)
    monkeypatch.setenv("SEQGEN_SHARD_CACHE_BYTES", str(2 * largest))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")
    monkeypatch.setattr(
        importlib.import_module("seqgen.training.run"), "image_memory", lambda *_: 120 * SIZE**2
    )
    for fault in (Answer(503, "SlowDown"), CutAnswer(after=1000)):
        proxy.inject(fault, where=lambda request: "train-" in request.path, times=3)
    streamed = training.run(wanted, opened(f"{root}/streamed"), threads=1)
    assert all(a.equal(b) for a, b in zip(on_disk.parameters(), streamed.parameters(), strict=True))
    kept = sum(path.stat().st_size for path in shard_cache().directory.glob("*.tar"))
    assert 0 < kept <= 2 * largest


@pytest.mark.slow
def test_a_damaged_object_is_refused_with_its_name(recipe: Path, root: str, server: S3Server):
    publish(str(recipe))
    client, key = server.client(), f"{root.removeprefix('s3://sets/')}/streamed/train-000002.tar"
    found = client.get_object(Bucket="sets", Key=key)
    content = bytearray(found["Body"].read())
    content[700] ^= 1
    client.put_object(Bucket="sets", Key=key, Body=bytes(content), Metadata=found["Metadata"])
    for wanted in (recipe_of(shuffle_shards=2), recipe_of()):
        with pytest.raises(
            OperationalError, match=rf"{root}/streamed/train-000002\.tar: .*altered.*publish the set"
        ):
            training.run(wanted, opened(f"{root}/streamed"), threads=1)
    assert not [path for path in shard_cache().directory.glob("*.tar") if path.read_bytes() == bytes(content)]


@pytest.mark.slow
def test_what_was_trained_elsewhere_is_measured_from_s3(
    recipe: Path, root: str, server: S3Server, monkeypatch
):
    publish(str(recipe))
    resolved = load_recipe(str(recipe))
    expected = load_split(places(resolved).shards, "test")
    monkeypatch.setenv("SEQGEN_ARTIFACTS", str(recipe.parent / "other-machine"))
    for name, value in server.environment(READER).items():  # who trains need not be allowed to write
        monkeypatch.setenv(name, value)
    assert checked_manifest(resolved).splits["test"].images == len(expected)
    assert load_split(shards_of(resolved), "test").images.equal(expected.images)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(BadInput, match="SignatureDoesNotMatch"):
        checked_manifest(resolved)


@pytest.mark.slow
def test_verify_and_estimate_take_the_published_set_where_none_was_made(
    root: str,
    server: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("SEQGEN_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("SEQGEN_SHARD_CACHE", str(tmp_path / "cache"))
    digits = tiny_recipe(tmp_path)
    here = places(load_recipe(str(digits))).shards
    write_digits(here)
    publish(str(digits))
    shutil.rmtree(here)
    for name, value in server.environment(READER).items():
        monkeypatch.setenv(name, value)
    capsys.readouterr()
    verify(str(digits))
    assert f"{root}/tiny: 3 shards, 104 images, all whole" in capsys.readouterr().out
    estimate(str(digits), batches=2)
    assert "images/s" in capsys.readouterr().out

    client, key = server.client(), f"{root.removeprefix('s3://sets/')}/tiny/valid-000000.tar"
    content = bytearray(client.get_object(Bucket="sets", Key=key)["Body"].read())
    content[700] ^= 1
    client.put_object(Bucket="sets", Key=key, Body=bytes(content))
    with pytest.raises(OperationalError, match=f"{root}/tiny/valid-000000.tar: .*altered"):
        verify(str(digits))
    with pytest.raises(BadInput, match="no manifest, so no complete shards here"):
        verify(str(digits), on_bad_shard="skip")  # of the set that is made here


SAMPLE, SAMPLES, LARGE_SHARDS = 2000, 5, 26
SHARD_BYTES = SAMPLE * SAMPLES * SIZE**2  # of decoded pixels
# Streams an epoch and says by how many bytes the process has grown at most, and how many images it saw.
CHILD = """
import json, sys
from pathlib import Path
from pipelines.artifacts.published import opened
from seqgen.data.batches import TrainingBatches
from seqgen.data.settings import DataConfig
from seqgen.data.streamed import StreamedImages

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))

def pass_through(split):
    data = DataConfig(source="mnist-5k", size=28, binarise="dynamic")
    images = StreamedImages(opened(sys.argv[1]), split, 2, int(sys.argv[2]))
    batches = TrainingBatches(images, data, 1000, conditional=False, seed=0)
    return sum(len(batches.at(0, step).x) for step in range(batches.steps))

pass_through("valid")  # what is imported and allocated once
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
seen = pass_through("train")
print(json.dumps([resident("VmHWM") - before, seen]))
"""


def write_large(directory: Path) -> Manifest:
    """26 shards of 10,000 grey images, 204 MB of pixels; all hold the same, but for their first sample's key."""
    images = np.random.default_rng(0).integers(0, 256, (SAMPLE, SIZE, SIZE), dtype=np.uint8)
    images[:, :, 4:] = 0  # a PNG of noise alone takes long
    meta: dict[str, Any] = dict.fromkeys(("alphabet", "character", "concept", "drawers", "labels"))
    sample = encode_sample("", images, 256, {"dataset": "test", **meta})

    def shards(split: str, count: int) -> SplitIndex:
        written = []
        for number in range(count):
            samples = [sample._replace(key=f"{number:03d}{key:03d}") for key in range(SAMPLES)]
            written.append(write_shard(directory / f"{split}-{number:06d}.tar", samples))
        return SplitIndex(images=count * SAMPLES * SAMPLE, concepts=(), shards=tuple(written))

    return Manifest(
        title="large test set",
        data=DataConfig(source="mnist-5k", size=SIZE, binarise="dynamic"),
        height=SIZE,
        width=SIZE,
        levels=256,
        mean=0.1,
        sources=(),
        splits={"train": shards("train", LARGE_SHARDS), "valid": shards("valid", 1)},
    ).write(directory)


@pytest.mark.slow
def test_memory_and_cache_are_bounded_while_an_epoch_of_a_large_set_passes(root: str, tmp_path: Path):
    directory, cache = tmp_path / "large", tmp_path / "cache"
    manifest = write_large(directory)
    publish_set(directory, f"{root}/large")
    limit = 3 * max(shard.bytes for shard in manifest.splits["train"].shards)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"SEQGEN_SHARD_CACHE": str(cache), "SEQGEN_SHARD_CACHE_BYTES": str(limit)}
    command = [sys.executable, "-c", CHILD, f"{root}/large", str(4 * SHARD_BYTES)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    grown, seen = json.loads(done.stdout)
    assert seen == LARGE_SHARDS * SAMPLE * SAMPLES
    assert grown < LARGE_SHARDS // 2 * SHARD_BYTES  # four shards, and what the allocator keeps
    assert 0 < sum(path.stat().st_size for path in cache.glob("*.tar")) <= limit
