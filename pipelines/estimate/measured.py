"""A step of a training, really made on this machine: its time, its memory, and that of a look at held-out images."""

from __future__ import annotations

import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context

from pipelines.artifacts.published import opened
from seqgen.core.errors import BadInput, OperationalError
from seqgen.core.machine import Device, cores
from seqgen.settings import Recipe, build_recipe

_EPOCHS = 4  # of so many batches each; the first is not counted
_HELD_OUT = 4  # batches
_PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True)
class MeasuredStep:
    """Seconds a step, and an image held out, of `processes` that trained together here, each on `threads` cores and
    a worker's share of the batch; bytes: the most that one of them had, of the GPU's memory if `device` is cuda.
    """

    device: Device
    processes: int
    threads: int
    step_seconds: float
    held_out_seconds: float
    memory: int


def measure(recipe: Recipe, shards: str, device: Device, batches: int) -> MeasuredStep:
    """Train a few epochs of `batches` batches of `recipe`, in as many processes as it has workers and fit here.

    Raises what training raises, OperationalError if a process died.
    """
    import torch

    workers = recipe.train.workers
    room = torch.cuda.device_count() if device == "cuda" else cores()
    if not room:
        raise BadInput(
            "--device cuda: there is no GPU here; measure on a machine of the kind that is to train"
        )
    processes = min(workers, room)
    threads = max(1, cores() // processes)
    # A worker's share of the batch is the same for fewer workers of a smaller batch.
    batch = recipe.train.batch // workers * processes
    tree = recipe.given()
    tree["train"] |= {
        "workers": processes,
        "fewest_workers": None,
        "batch": batch,
        "epochs": _EPOCHS,
        "evaluate_every": _EPOCHS,
    }
    tree["search"] = None
    small = build_recipe(tree, recipe.name).model_dump_json(by_alias=True)
    with (
        tempfile.TemporaryDirectory() as directory,
        ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool,
    ):
        place = f"file://{directory}/rendezvous"
        members = [
            pool.submit(_member, small, shards, device, rank, place, threads, batches)
            for rank in range(processes)
        ]
        try:
            found = [member.result() for member in members]
        except BrokenProcessPool:
            raise OperationalError(
                "a process that measured was killed, most likely for want of memory; lower train.batch or "
                "model.steps, or set train.recompute"
            ) from None
    steps, held_out, memory = zip(*found, strict=True)
    return MeasuredStep(device, processes, threads, max(steps), max(held_out), max(memory))


def _member(
    text: str, shards: str, device: Device, rank: int, place: str, threads: int, batches: int
) -> tuple[float, float, int]:
    """One process: seconds a step (the median epoch's), seconds an image held out, bytes at the most."""
    import torch
    from torch import distributed

    from seqgen.data.images import load_split
    from seqgen.data.manifest import read_manifest
    from seqgen.models import build
    from seqgen.training import EachEpoch, ProcessGroup, Progress, SaveFn, fit

    recipe = Recipe.model_validate_json(text)
    config, where = recipe.train, torch.device(device, rank) if device == "cuda" else torch.device("cpu")
    torch.set_num_threads(threads)
    if config.workers > 1:
        backend = "nccl" if device == "cuda" else "gloo"
        distributed.init_process_group(
            backend, place, rank=rank, world_size=config.workers, timeout=_PATIENCE
        )
    group = ProcessGroup.joined(where)
    train, valid = (
        load_split(opened(shards), split, count * config.batch)
        for split, count in (("train", batches), ("valid", _HELD_OUT))
    )
    manifest = read_manifest(opened(shards))
    torch.manual_seed(config.seed)
    model = build(recipe.model, manifest.height, manifest.width, manifest.mean)
    rates: list[float] = []
    looks: list[float] = []

    def on_epoch(progress: Progress, save: SaveFn) -> None:
        rate = progress.metrics["images_per_second"]
        rates.append(rate)
        if progress.last:
            trained = len(train) // config.batch * config.batch
            looks.append((progress.metrics["seconds"] - trained / rate) / len(valid))

    fit(model, train, valid, recipe.data, config, group=group, callbacks=[EachEpoch(on_epoch)])
    memory = group.peak_memory()
    if config.workers > 1:
        distributed.destroy_process_group()
    step = config.batch / statistics.median(rates[1:])
    return step, max(0.0, looks[0]), memory
