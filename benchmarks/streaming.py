"""A set that is streamed from S3, beside stock webdataset: `python -m benchmarks.streaming s3://bucket/prefix`.

Publishes a set of real digits there (AWS_ENDPOINT_URL names the server) and passes through it again and again.
docs/data.md says what streaming is.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import torch

from benchmarks import page
from benchmarks.loading import stock
from benchmarks.measure import Action, in_fresh_process, peak_memory
from data_prep import s3
from data_prep.fetch import fetch
from data_prep.samples import CHUNK
from data_prep.shard_files import encode_sample, write_shard
from data_prep.shard_set import CHUNKS_PER_SHARD, shard_set
from pipelines.artifacts.published import StoredSet, publish_set
from seqgen.core.errors import BadInput
from seqgen.data.batches import TrainingBatches
from seqgen.data.images import ImageSet, load_split
from seqgen.data.manifest import Manifest, Place, SplitIndex
from seqgen.data.published import PublishedSet
from seqgen.data.settings import DataConfig
from seqgen.data.shard_cache import ShardCache
from seqgen.data.streamed import StreamedImages

DATA = DataConfig(source="mnist-5k", size=28, binarise="dynamic")
BATCH, WINDOW = 64, 4
TWO_WINDOWS = 2 * WINDOW * CHUNK * CHUNKS_PER_SHARD * 28 * 28  # bytes of pixels

Row = dict[str, Any]


def made_set(directory: Path, shards: int) -> Manifest:
    """`shards` full shards of the digits of mnist-5k, each in an order of its own, below `directory`/set."""
    fetch([DATA.source], directory / "raw", None, notice=lambda text: None)
    one = shard_set(DATA, directory / "raw", directory / "one")
    digits = load_split(directory / "one", "train")
    (directory / "set").mkdir()
    written = [
        _shard(directory / "set" / f"train-{number:06d}.tar", digits, number) for number in range(shards)
    ]
    index = SplitIndex(images=sum(shard.images for shard in written), concepts=(), shards=tuple(written))
    return one.model_copy(update={"splits": {"train": index}}).write(directory / "set")


def _shard(path: Path, digits: ImageSet, number: int) -> Any:
    order = torch.randint(
        len(digits), (CHUNKS_PER_SHARD, CHUNK), generator=torch.Generator().manual_seed(number)
    )
    meta: Row = dict.fromkeys(("alphabet", "character", "concept", "drawers"))
    samples = []
    for key, chunk in enumerate(order):
        labels = [int(digits.concept_names[concept]) for concept in digits.concepts[chunk].tolist()]
        images = digits.pixels(chunk).numpy()
        fields = {**meta, "dataset": DATA.source, "labels": labels}
        samples.append(encode_sample(f"{number:06d}{key:02d}", images, 256, fields))
    return write_shard(path, samples)


def opened(url: str, mode: str = "rb", bufsize: int = 8192, **_: Any) -> IO[bytes]:
    """What webdataset is given to open s3:// with, which it cannot by itself: boto3's stream of one object."""
    parts = urlsplit(url)
    return s3.client().get_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))["Body"]


def passing(
    place: Place, before: Callable[[], object] = lambda: None, memory: int | None = TWO_WINDOWS
) -> Action:
    """An epoch of ours, in another order each time; `before` it is called first."""
    epochs = itertools.count()

    def action() -> None:
        before()
        images = StreamedImages(place, "train", WINDOW, memory)
        batches, epoch = TrainingBatches(images, DATA, BATCH, conditional=False, seed=0), next(epochs)
        for step in range(batches.steps):
            batches.at(epoch, step)

    return action


def peak(directory: Path, other: Path, memory: int | None) -> int:
    """For a process of its own: bytes that an epoch adds to what is resident after one of the `other` set."""
    torch.set_num_threads(1)
    passing(other)()
    return peak_memory(passing(directory, memory=memory), torch.device("cpu"))


def through(batches: Callable[[], Iterable[object]]) -> Action:
    """All of them, and no more."""

    def action() -> None:
        for _ in batches():
            pass

    return action


def in_turns(actions: dict[str, Action], rounds: int) -> Iterator[tuple[str, float, float]]:
    """(name, wall seconds, CPU seconds) of each action in each round, every other round in the other order."""
    order = list(actions.items())
    for turn in range(-1, rounds):
        for name, action in order:
            wall, processor = time.perf_counter(), time.process_time()
            action()
            if turn >= 0:  # the first is not timed
                yield name, time.perf_counter() - wall, time.process_time() - processor
        order.reverse()


def measure(address: str, shards: int, rounds: int, scratch: Path) -> Row:
    """Seconds of each way through the set, by round."""
    from webdataset.gopen import gopen_schemes

    gopen_schemes["s3"] = opened
    manifest = made_set(scratch, shards)
    publish_set(scratch / "set", address)
    names = [shard.name for shard in manifest.splits["train"].shards]
    size = sum(shard.bytes for shard in manifest.splits["train"].shards)
    cold, warm = (ShardCache(scratch / name, 2 * size) for name in ("cold", "warm"))
    stored = StoredSet(address)
    local = scratch / "set"
    actions: dict[str, Action] = {
        "webdataset, S3": through(lambda: stock([f"{address}/{name}" for name in names], BATCH)),
        "seqgen, S3": passing(
            PublishedSet(stored, cold), lambda: shutil.rmtree(cold.directory, ignore_errors=True)
        ),
        "seqgen, cache": passing(PublishedSet(stored, warm)),
        "webdataset, disk": through(lambda: stock([str(local / name) for name in names], BATCH)),
        "seqgen, disk": passing(local),
    }
    peaks = {
        name: in_fresh_process(peak, local, scratch / "one", memory)
        for name, memory in (("two windows", TWO_WINDOWS), ("all", None))
    }
    row: Row = {
        "peak": peaks,
        "images": manifest.splits["train"].images,
        "bytes": size,
        "shards": shards,
        "wall": {name: [] for name in actions},
        "cpu": {name: [] for name in actions},
    }
    for name, wall, processor in in_turns(actions, rounds):
        row["wall"][name].append(wall)
        row["cpu"][name].append(processor)
    return row


def table(row: Row) -> str:
    """Rates by medians, and the ratio to webdataset from the same source in the same round, by each clock."""
    lines = []
    for name in row["wall"]:
        stocks = "webdataset, disk" if name.endswith("disk") else "webdataset, S3"
        line = [name]
        for clock in ("wall", "cpu"):
            ours, theirs = row[clock][name], row[clock][stocks]
            ratios = sorted(webdataset / seqgen for seqgen, webdataset in zip(ours, theirs, strict=True))
            line.append(f"{row['images'] / statistics.median(ours):,.0f}")
            line.append(f"**{statistics.median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f})")
        lines.append(line)
    ratio = "times webdataset (least to most of a round)"
    return page.table(["loader, from", "images/s", ratio, "images a CPU second", ratio], lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and publish."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    parser.add_argument("address", help="s3://bucket/prefix, where the set is put")
    parser.add_argument("--shards", type=int, default=24, help="of 5,000 images each")
    parser.add_argument("--rounds", type=int, default=11, help="timings of which the median is taken")
    options = parser.parse_args(arguments)
    if not options.address.startswith("s3://"):
        raise BadInput(f"{options.address}: give s3://<bucket>/<prefix>")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="seqgen-streaming-") as scratch:
        row = measure(options.address.rstrip("/"), options.shards, options.rounds, Path(scratch))
    machine = page.machine(torch.device("cpu"))
    text = (
        f"{table(row)}\n\n* {row['shards']} shards, {row['images']:,} digits of 28 x 28, {row['bytes'] / 1e6:.1f} MB; "
        f"batch {BATCH}, a window of {WINDOW} shards, two windows in memory.\n"
        f"* An epoch adds {row['peak']['two windows'] / 1e6:.0f} MB to a process, of which {TWO_WINDOWS / 1e6:.0f} MB "
        f"are the two windows; where all shards stay, {row['peak']['all'] / 1e6:.0f} MB.\n"
        f"* `{page.command()}`: {machine['chip']}, 1 thread, torch {machine['torch']}, medians of {options.rounds}, "
        "the S3 server on the same machine."
    )
    page.publish(
        "streaming", {"command": page.command(), "machine": machine, "rounds": options.rounds, **row}, text
    )
    print(text)


if __name__ == "__main__":
    page.run(main)
