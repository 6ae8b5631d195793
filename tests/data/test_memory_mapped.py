"""A set that does not fit in memory: the same batches from a mapped file, and little that is resident."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.shard_files import encode_sample, write_shard
from seqgen.core.errors import OperationalError
from seqgen.data.batches import TrainingBatches, fixed_set
from seqgen.data.images import ImageSet, load_split
from seqgen.data.manifest import Manifest, SplitIndex
from seqgen.data.settings import DataConfig
from seqgen.models import build
from seqgen.settings import ModelConfig, TrainConfig
from seqgen.training import fit
from seqgen.training import memory as training_memory
from tests.sets import write_digits, write_strokes

GREY = DataConfig(source="mnist-5k", size=28, binarise="dynamic")
BITS = DataConfig(source="omniglot-strokes", size=28, split="30-20", binarise="static")
SETS = {"digits": (write_digits, GREY), "strokes": (write_strokes, BITS)}
SIDE, SAMPLE, SAMPLES, SHARDS = 28, 2000, 5, 26
LARGE = SHARDS * SAMPLES * SAMPLE * SIDE * SIDE  # bytes of the decoded pixels, some 200 MB
ROOT = Path(__file__).parents[2]

# Loads a split, draws batches and says by how many bytes the process's own memory has grown.
CHILD = """
import json, resource, sys
from pathlib import Path
from seqgen.data.settings import DataConfig
from seqgen.data.batches import TrainingBatches
from seqgen.data.images import load_split

def own(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))

directory, spill, memory, room = sys.argv[1:]
data = DataConfig(source="mnist-5k", size=28, binarise="dynamic")
load_split(Path(directory), "valid")
before = own("RssAnon")
if room != "any":
    resource.setrlimit(resource.RLIMIT_DATA, (own("VmData") + int(room),) * 2)
try:
    images = load_split(Path(directory), "train", memory=int(memory), spill=Path(spill))
except MemoryError:
    sys.exit(9)
batches = TrainingBatches(images, data, 256, conditional=False, seed=0)
touched = [float(batches.at(0, step).x.mean()) for step in range(min(200, batches.steps))]
print(json.dumps(own("RssAnon") - before), flush=True)
sys.stdin.readline()
"""


def child(directory: Path, spill: Path, memory: int, room: int | str = "any") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(directory), str(spill), str(memory), str(room)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded set of `LARGE` bytes of pixels; all its training shards hold the same images."""
    directory = tmp_path_factory.mktemp("large")
    images = np.random.default_rng(0).integers(0, 256, (SAMPLE, SIDE, SIDE), dtype=np.uint8)
    images[:, :, 4:] = 0  # a PNG of noise alone takes long
    meta = dict.fromkeys(("alphabet", "character", "concept", "drawers", "labels"))
    sample = encode_sample("", images, 256, {"dataset": "test", **meta})

    def shards(split: str, count: int) -> SplitIndex:
        samples = [sample._replace(key=f"{key:06d}") for key in range(SAMPLES)]
        written = [write_shard(directory / f"{split}-{n:06d}.tar", samples) for n in range(count)]
        return SplitIndex(images=count * SAMPLES * SAMPLE, concepts=(), shards=tuple(written))

    Manifest(
        title="large test set",
        data=GREY,
        height=SIDE,
        width=SIDE,
        levels=256,
        mean=float(images.mean() / 255),
        sources=(),
        splits={"train": shards("train", SHARDS), "valid": shards("valid", 1)},
    ).write(directory)
    return directory


def both(directory: Path, name: str) -> tuple[ImageSet, ImageSet, DataConfig]:
    """The training split of one of `SETS` in memory and mapped, with its settings."""
    write, data = SETS[name]
    write(directory)
    loaded, mapped = load_split(directory, "train"), load_split(directory, "train", memory=0, spill=directory)
    assert loaded.memory_map is None
    assert mapped.memory_map is not None
    return loaded, mapped, data


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("name", SETS)
def test_a_mapped_set_gives_the_same_batches(tmp_path: Path, name: str, conditional: bool):
    loaded, mapped, data = both(tmp_path, name)
    for rank in range(2):
        in_memory, on_disk = (
            TrainingBatches(images, data, 8, conditional=conditional, seed=1, rank=rank, size=2)
            for images in (loaded, mapped)
        )
        for epoch, step in ((0, 0), (0, 3), (5, 1)):
            ours, theirs = on_disk.at(epoch, step), in_memory.at(epoch, step)
            assert ours.x.equal(theirs.x)
            assert (ours.context is not None) == conditional
            assert ours.context is None or ours.context.equal(theirs.context)
    ours, theirs = (fixed_set(images, data, True, 2) for images in (mapped, loaded))
    assert ours.x.equal(theirs.x)
    assert ours.partners.equal(theirs.partners)
    assert mapped.spread(12).images.equal(loaded.spread(12).images)


def test_training_on_a_mapped_set_ends_with_the_same_bits(tmp_path: Path):
    loaded, mapped, data = both(tmp_path, "strokes")
    model = ModelConfig(steps=2, latents=2, hidden=8, read_size=4, write_size=4, posterior_hidden=8)
    train = TrainConfig(epochs=2, batch=8, learning_rate=1e-3)
    trained = []
    for images in (loaded, mapped):
        torch.manual_seed(0)
        trained.append(fit(build(model, 28, 28, 0.2), images, images, data, train))
    assert all(a.equal(b) for a, b in zip(*(m.parameters() for m in trained), strict=True))


def test_what_fits_is_in_memory_and_is_not_copied_on_its_device(tmp_path: Path):
    write_digits(tmp_path)
    fits = load_split(tmp_path, "train", memory=64 * 28 * 28, spill=tmp_path / "absent")
    assert fits.memory_map is None
    mapped = load_split(tmp_path, "train", memory=64 * 28 * 28 - 1, spill=tmp_path)
    assert mapped.memory_map is not None
    for images in (fits, mapped):
        assert images.to("cpu").images.data_ptr() == images.images.data_ptr()
    assert mapped.spread(12).memory_map is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", SETS)
def test_mapped_images_come_to_a_gpu_batch_by_batch(tmp_path: Path, name: str):
    loaded, mapped, data = both(tmp_path, name)
    there = mapped.to("cuda")
    assert there.images.device.type == "cpu"
    expected, drawn = (
        TrainingBatches(images, data, 8, conditional=True, seed=1).at(1, 2)
        for images in (loaded.to("cuda"), there)
    )
    for ours, theirs in zip(drawn, expected, strict=True):
        assert ours.device.type == "cuda"
        assert ours.equal(theirs)


def test_a_mapped_set_is_not_resident_and_its_decoding_neither(large: Path, tmp_path: Path):
    room = LARGE // 4  # what a process may have above what it has at first
    with child(large, tmp_path, 0, room) as mapped, child(large, tmp_path, LARGE, room) as stopped:
        grown = json.loads(mapped.communicate("\n")[0])
        stopped.communicate()
    assert mapped.returncode == 0
    assert stopped.returncode == 9, "the limit is one"
    with child(large, tmp_path, LARGE) as loaded:
        assert json.loads(loaded.communicate("\n")[0]) >= LARGE
    assert grown < LARGE / 10


def test_the_file_goes_with_a_process_that_is_killed(tmp_path: Path):
    directory, spill = tmp_path / "shards", tmp_path / "spill"
    spill.mkdir()
    write_digits(directory, {"train": 512, "valid": 16, "test": 16})
    with child(directory, spill, 0) as process:
        assert process.stdout is not None
        process.stdout.readline()
        mapped = Path(f"/proc/{process.pid}/maps").read_text()
        assert str(spill) in mapped, "it lies in the directory that was named"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not list(spill.iterdir())


def test_a_full_disk_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_digits(tmp_path)
    spill = tmp_path / "spill"
    spill.mkdir()
    usage = shutil.disk_usage(spill)._replace(free=50_175)
    monkeypatch.setattr(shutil, "disk_usage", lambda directory: usage)
    monkeypatch.setenv("TMPDIR", str(spill))
    with pytest.raises(
        OperationalError, match=r"need 50,176 bytes here, 50,175 are free; .*TMPDIR"
    ) as caught:
        load_split(tmp_path, "train", memory=0)
    assert str(spill) in str(caught.value)


def test_a_disk_that_fills_up_meanwhile_is_named(tmp_path: Path):
    write_digits(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OperationalError, match=r"need 50,176 bytes here, .* are free \(File too large\)"):
            load_split(tmp_path, "train", memory=0, spill=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path):
    write_digits(tmp_path)
    with pytest.raises(OperationalError, match=r"absent: .* \(No such file or directory\)"):
        load_split(tmp_path, "train", memory=0, spill=tmp_path / "absent")


def test_images_take_a_quarter_of_what_training_leaves(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(training_memory, "memory", lambda: 1000)
    assert training_memory.image_memory() == 250
    assert training_memory.image_memory(2, 100) == 100
    assert training_memory.image_memory(2, 600) == 0
