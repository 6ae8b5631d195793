"""Shards to batches on one core, beside webdataset's loader and a model's appetite: `python -m benchmarks.loading`.

Takes the sharded set DIRECTORY or makes two: Omniglot and MNIST if SEQGEN_MIRROR names a mirror, else sets that need no
download. docs/data.md says what a mapped set is.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import page
from benchmarks.measure import Action, in_fresh_process, in_turns
from benchmarks.specs import INK, random_images
from benchmarks.steps import step_of
from data_prep.fetch import fetch
from data_prep.shard_set import shard_set
from pipelines.recipes import load_recipe
from pipelines.search.search_space import checked_recipes
from seqgen.data.batches import TrainingBatches
from seqgen.data.images import ImageSet, load_split
from seqgen.data.manifest import Manifest, read_manifest
from seqgen.data.settings import DataConfig
from seqgen.models import SequentialModel, build
from seqgen.settings import Recipe

BATCHES = 50  # of one timing
SHUFFLE = 1000  # images in the stock loader's buffer
_CPU = torch.device("cpu")
_MADV_PAGEOUT, _MS_SYNC = 21, 4  # Linux; not in Python's mmap
_DRAWN = [
    DataConfig(source="omniglot-strokes", size=28, split="30-20", binarise="static"),
    DataConfig(source="mnist-5k", size=28, binarise="dynamic"),
]
_REAL = [
    DataConfig(source="omniglot", size=52, split="30-20", binarise="static"),
    DataConfig(source="mnist", size=28, binarise="dynamic"),
]
KEPT = {"memory": None, "mapped": 0}  # where the pixels are, by load_split's `memory`

Row = dict[str, Any]


def made_sets(directory: Path, mirror: str | None) -> list[Path]:
    """Fetch and shard the sets below `directory`; where each one is."""
    made = []
    for data in _REAL if mirror else _DRAWN:
        fetch([data.source], directory / "raw", mirror, notice=lambda text: None)
        shard_set(data, directory / "raw", directory / data.source)
        made.append(directory / data.source)
    return made


def decoded(directory: Path, memory: int | None) -> Row:
    """For a process of its own: CPU seconds of decoding the training images, and what they add to its own memory."""
    torch.set_num_threads(1)
    load_split(directory, "valid", memory=memory)  # what is imported and allocated once
    before, began = _own_memory(), time.process_time()
    images = load_split(directory, "train", memory=memory)
    return {"seconds": time.process_time() - began, "bytes": _own_memory() - before, "images": len(images)}


def _own_memory() -> int:
    """Resident bytes of this process that are no file's (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def drawing(batches: TrainingBatches) -> Action:
    """The next `BATCHES` batches, epoch after epoch: a new order counts with them."""
    positions = ((epoch, step) for epoch in itertools.count() for step in range(batches.steps))

    def draw() -> None:
        for epoch, step in itertools.islice(positions, BATCHES):
            batches.at(epoch, step)

    return draw


def stock(shards: list[str], batch: int) -> Iterator[Tensor]:
    """The images of shards by webdataset alone: shards and images shuffled, float32 [batch,1,H,W] in [0,1]."""
    import webdataset

    def split(samples: Iterator[Row]) -> Iterator[tuple[Tensor]]:
        for sample in samples:
            count, height, width = sample["json"]["shape"]
            for image in torch.from_numpy(sample["png"]).view(count, 1, height, width):
                yield (image,)

    loader = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0)
    for (images,) in loader.decode("l").compose(split).shuffle(SHUFFLE).batched(batch):
        yield images


def fastest_model(rounds: int) -> tuple[Recipe, SequentialModel, Action]:
    """Of the models that the quickstart's search tries the one with the shortest training step, and that step."""
    steps: dict[str, Action] = {}
    tried = {}
    for recipe in checked_recipes(load_recipe("quickstart")):
        name = f"{recipe.model.attention}, T = {recipe.model.steps}"
        model = build(recipe.model, recipe.data.side, recipe.data.side, INK)
        tried[name] = (recipe, model)
        steps[name] = training_step(recipe, model)
    seconds = in_turns(steps, rounds, _CPU)
    best = min(steps, key=lambda name: statistics.median(seconds[name]))
    return *tried[best], steps[best]


def training_step(recipe: Recipe, model: SequentialModel) -> Action:
    """A step on one batch that is there already."""
    x = random_images(recipe, recipe.train.batch)
    noise = model.noise(len(x), torch.Generator())
    return step_of(lambda: model(x, None, noise).free_energy().mean(), model.parameters(), recipe.train)


def first_reads(images: ImageSet, batches: TrainingBatches, rounds: int) -> list[float]:
    """Wall seconds of single batches of a mapped set none of whose pages is in memory (Linux)."""
    seconds = []
    for step in range(rounds):
        evict(images.images)
        began = time.perf_counter()
        batches.at(0, step % batches.steps)
        seconds.append(time.perf_counter() - began)
    return seconds


def evict(mapped: Tensor) -> None:
    """Write a mapped tensor's pages to disk and take them out of memory. Raises OSError where that cannot be."""
    int(mapped.view(-1)[:: os.sysconf("SC_PAGE_SIZE")].sum())  # only pages that this process sees are taken
    libc = ctypes.CDLL(None, use_errno=True)
    extent = ctypes.c_void_p(mapped.data_ptr()), ctypes.c_size_t(mapped.nbytes)
    if libc.msync(*extent, _MS_SYNC) or libc.madvise(*extent, _MADV_PAGEOUT):
        raise OSError(ctypes.get_errno(), "pages cannot be taken out of memory")


def measure(directory: Path, model: tuple[Recipe, SequentialModel, Action], rounds: int) -> Row:
    """Everything of one set; images a second are those of medians."""
    manifest = read_manifest(directory)
    recipe, _, step = model
    batch = recipe.train.batch
    shards = [str(directory / shard.name) for shard in manifest.splits["train"].shards]
    actions: dict[str, Action] = {"training": step, "webdataset": lambda: list(stock(shards, batch))}
    count = {"training": batch, "webdataset": manifest.splits["train"].images}
    row: Row = {
        "set": _title(manifest),
        "images": manifest.splits["train"].images,
        "pixels": manifest.height * manifest.width,
        "binarise": manifest.data.binarise,
        "decoding": {kept: in_fresh_process(decoded, directory, memory) for kept, memory in KEPT.items()},
        "first_read": {},
    }
    sets = {kept: load_split(directory, "train", memory=memory) for kept, memory in KEPT.items()}
    for conditional, kept in itertools.product((False, True), KEPT):
        batches = TrainingBatches(sets[kept], manifest.data, batch, conditional=conditional, seed=0)
        name = _case(conditional, kept)
        actions[name], count[name] = drawing(batches), BATCHES * batch
        if kept == "mapped":
            row["first_read"][name] = batch / statistics.median(first_reads(sets[kept], batches, rounds))
    row["seconds"] = in_turns(actions, rounds, _CPU)
    row["images_per_second"] = {
        name: count[name] / statistics.median(values) for name, values in row["seconds"].items()
    }
    return row


def _title(manifest: Manifest) -> str:
    return f"{manifest.data.source} {manifest.height} x {manifest.width}"


def _case(conditional: bool, kept: str) -> str:
    return f"{'pairs' if conditional else 'images'}, {kept}"


def tables(rows: list[Row]) -> str:
    """Decoding, then batches, as markdown."""
    decoding, batches = [], []
    for row in rows:
        loads = [row["decoding"][kept] for kept in KEPT]
        decoding.append(
            [
                row["set"],
                f"{row['images']:,}",
                f"{row['images'] * row['pixels'] / 1e6:.1f}",
                *(f"{load['images'] / load['seconds']:,.0f}" for load in loads),
                *(f"{max(0, load['bytes']) / 1e6:.1f}" for load in loads),
            ]
        )
        rate = row["images_per_second"]
        for conditional in (False, True):
            read = row["first_read"][_case(conditional, "mapped")]
            compared = [*(rate[_case(conditional, kept)] for kept in KEPT), read]
            batches.append(
                [
                    f"{row['set']}, {row['binarise']}",
                    "x and x'" if conditional else "x",
                    *(f"{value:,.0f}" for value in compared),
                    f"{rate['webdataset']:,.0f}",
                    " / ".join(f"**{value / rate['training']:.0f}**" for value in compared),
                ]
            )
    header = ["set", "images", "MB of pixels", "decoded a second: in memory", "mapped"]
    return "\n\n".join(
        [
            page.table([*header, "memory of its own, MB: in memory", "mapped"], decoding),
            page.table(
                [
                    "set",
                    "batch of",
                    "in memory, images/s",
                    "mapped",
                    "mapped, read from disk",
                    "webdataset's shuffle buffer",
                    "times the training: in memory / mapped / from disk",
                ],
                batches,
            ),
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and publish."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading", description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path, help="a sharded set")
    parser.add_argument("--rounds", type=int, default=11, help="timings of which the median is taken")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = fastest_model(options.rounds)
    recipe = model[0]
    with tempfile.TemporaryDirectory(prefix="seqgen-loading-") as scratch:
        mirror = os.environ.get("SEQGEN_MIRROR")
        sets = [options.directory] if options.directory else made_sets(Path(scratch), mirror)
        rows = [measure(directory, model, options.rounds) for directory in sets]
    trained = statistics.median(row["images_per_second"]["training"] for row in rows)
    command = f"{'SEQGEN_MIRROR=... ' if mirror and not options.directory else ''}{page.command()}"
    machine = page.machine(_CPU)
    shape = f"T = {recipe.model.steps}, {recipe.model.attention}, batch {recipe.train.batch}"
    text = (
        f"{tables(rows)}\n\n* The training: the quickstart's fastest model ({shape}), {trained:,.0f} images/s.\n"
        f"* `{command}`: {machine['chip']}, 1 thread, torch {machine['torch']}, medians of {options.rounds}, CPU time "
        "(from disk: wall time)."
    )
    about = {"command": command, "machine": machine, "rounds": options.rounds}
    page.publish("loading", {**about, "model": recipe.model.model_dump(), "rows": rows}, text)
    print(text)


if __name__ == "__main__":
    main()
