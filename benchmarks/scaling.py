"""Two processes against one on the same cores, what ends an epoch, GPUs on paper: `python -m benchmarks.scaling`.

The processes are plain ones (gloo, a file as rendezvous), trained by seqgen.training.fit on random bits. Wall time:
a process that waits for the other one takes none of the CPU's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from benchmarks import page
from benchmarks.measure import Action, in_fresh_process
from benchmarks.specs import INK, Specification, random_images
from benchmarks.steps import step_of
from pipelines.artifacts.history import FILE_NAME, write_history
from pipelines.tracking import runs
from seqgen.data.images import ImageSet
from seqgen.models import build
from seqgen.settings import Recipe
from seqgen.training import EachEpoch, ProcessGroup, Progress, SaveFn, fit

_CPU = torch.device("cpu")
_PATIENCE = timedelta(minutes=2)  # for a process that waits in vain for another one
_HELD_OUT = 4  # batches
_MNIST = (50_000, 10_000)

Row = dict[str, Any]
Result = TypeVar("Result")


class Mode(NamedTuple):
    """How the cores are shared."""

    processes: int
    threads: int

    def __str__(self) -> str:
        return f"{self.processes} x {self.threads}"


ALONE, THREADS, PROCESSES = MODES = Mode(1, 1), Mode(1, 2), Mode(2, 1)


class Model(NamedTuple):
    """What is trained, and the training and held-out images that its recipe has in an epoch."""

    specification: Specification
    images: tuple[int, int]


MODELS = {
    "quickstart": Model(Specification("quickstart"), (4_000, 500)),
    "draw-mnist, T = 10": Model(Specification("draw-mnist", ("model.steps=10",)), _MNIST),
    "sgm-mnist, T = 10": Model(Specification("sgm-mnist", ("model.steps=10",)), _MNIST),
}


def together(function: Callable[..., Result], mode: Mode, *arguments: Any) -> list[Result]:
    """`function(group, *arguments)` in fresh processes that form one group; their values by rank."""
    with (
        tempfile.TemporaryDirectory() as directory,
        ProcessPoolExecutor(mode.processes, mp_context=get_context("spawn")) as pool,
    ):
        place = f"file://{directory}/rendezvous"
        members = [
            pool.submit(_member, function, rank, mode, place, *arguments) for rank in range(mode.processes)
        ]
        return [member.result() for member in members]


def _member(
    function: Callable[..., Result], rank: int, mode: Mode, rendezvous: str, *arguments: Any
) -> Result:
    torch.set_num_threads(mode.threads)
    if mode.processes == 1:
        return function(ProcessGroup(), *arguments)
    torch.distributed.init_process_group(
        "gloo", rendezvous, rank=rank, world_size=mode.processes, timeout=_PATIENCE
    )
    try:
        return function(ProcessGroup.joined(_CPU), *arguments)
    finally:
        torch.distributed.destroy_process_group()


def trained(group: ProcessGroup, specification: Specification, steps: int, epochs: int) -> list[Row]:
    """Train `epochs` of `steps` batches. Of each but the first: images/s, seconds of a held-out image, of a checkpoint.

    A checkpoint is all that a worker does for one: history, weights, optimiser, each synced to the disk, and the
    copy into the run's storage.
    """
    recipe, rows = specification.resolved(), []
    config = recipe.train.model_copy(update={"epochs": epochs, "evaluate_every": 1})
    train, valid = (_images(recipe, batches * config.batch) for batches in (steps, _HELD_OUT))

    def on_epoch(progress: Progress, save: SaveFn) -> None:
        rate = progress.metrics["images_per_second"]
        row = {
            "rate": rate,
            "held_out_image": (progress.metrics["seconds"] - len(train) / rate) / len(valid),
        }
        if group.rank == 0:
            row["checkpoint"] = _checkpoint(progress, save)
        rows.append(row)

    torch.manual_seed(config.seed)
    model = build(recipe.model, recipe.data.side, recipe.data.side, INK)
    fit(model, train, valid, recipe.data, config, group=group, callbacks=[EachEpoch(on_epoch)])
    return rows[1:]


def _images(recipe: Recipe, count: int) -> ImageSet:
    """Random bits, in the grey levels of a set that is binarised anew each time it is drawn."""
    levels = 2 if recipe.data.binarise == "static" else 256
    unknown = torch.full((count,), -1)
    bits = random_images(recipe, count).squeeze(1).to(torch.uint8) * (levels - 1)
    return ImageSet(bits, levels, unknown, unknown, ())


def _checkpoint(progress: Progress, save: SaveFn) -> float:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "checkpoint"
        directory.mkdir()
        began = time.perf_counter()
        row = {"epoch": progress.epoch, "step": progress.step, **progress.metrics}
        write_history(directory / FILE_NAME, [row] * progress.epoch)
        save(directory)
        shutil.copytree(directory, f"{name}/stored")
        return time.perf_counter() - began


def exchanged(group: ProcessGroup, specification: Specification, steps: int, rounds: int) -> Row:
    """Seconds of a step that sums the gradients over the processes and of one that does not, and of the sum alone.

    The step has DistributedDataParallel as fit has; blocks of `steps` of both kinds take turns.
    """
    recipe = specification.resolved()
    share = recipe.train.batch // group.size
    model = build(recipe.model, recipe.data.side, recipe.data.side, INK)
    parallel = nn.parallel.DistributedDataParallel(
        model, forward_sync_buffers=False, gradient_as_bucket_view=True
    )
    x, noise = random_images(recipe, share), model.noise(share, torch.Generator())
    step = step_of(lambda: parallel(x, None, noise).free_energy().mean(), model.parameters(), recipe.train)
    gradients = torch.zeros(sum(parameter.numel() for parameter in model.parameters()))

    def alone() -> None:
        torch.distributed.all_reduce(gradients)

    kinds: dict[str, Action] = {"summed": step, "apart": step, "alone": alone}
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds + 1):
        for name, action in kinds.items():
            torch.distributed.barrier()
            began = time.perf_counter()
            with parallel.no_sync() if name == "apart" else contextlib.nullcontext():
                for _ in range(steps):
                    action()
            seconds[name].append((time.perf_counter() - began) / steps)
    return {
        "bytes": gradients.nbytes,
        **{name: statistics.median(values[1:]) for name, values in seconds.items()},
    }


def logging_seconds(rounds: int) -> float:
    """For a process of its own: CPU seconds in which the driver logs the metrics of one epoch to a local database."""
    metrics = {f"metric {number}": float(number) for number in range(8)}
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        os.environ["MLFLOW_TRACKING_URI"] = uri = f"sqlite:///{name}/mlflow.db"
        client = runs.connect(uri)
        run = client.create_run(runs.experiment_id(client))
        log = runs.MetricLog(uri, run.info.run_id)
        began = 0.0
        for step in range(rounds + 1):
            log.log(metrics, step)
            time.sleep(1)  # an epoch, so that each one is sent by itself
            if step == 0:
                began = time.process_time()
        spent = time.process_time() - began
        if not log.close():
            raise RuntimeError("the tracking database did not take the metrics")
        return spent / rounds


def measure(model: Model, steps: int, epochs: int, rounds: int) -> Row:
    """Medians of one model in every mode, which take turns; the gradients' exchange between two processes."""
    seen: dict[Mode, list[Row]] = {mode: [] for mode in MODES}
    for _ in range(rounds):
        for mode in MODES:
            seen[mode] += together(trained, mode, model.specification, steps, epochs)[0]
    ends = ("held_out_image", "checkpoint")
    return {
        "batch": model.specification.resolved().train.batch,
        "images": model.images,
        "images_per_second": {
            str(mode): statistics.median(row["rate"] for row in rows) for mode, rows in seen.items()
        },
        **{key: statistics.median(row[key] for row in seen[PROCESSES]) for key in ends},
        "exchange": together(exchanged, PROCESSES, model.specification, steps, rounds)[0],
    }


class Cluster(NamedTuple):
    """GPUs in a ring: bytes/s of its slowest link, seconds from one to the next; both are assumed."""

    gpus: int
    bandwidth: float
    latency: float
    link: str


CLUSTERS = (
    Cluster(1, float("inf"), 0.0, "none"),
    Cluster(8, 200e9, 10e-6, "NVLink within a machine"),
    Cluster(64, 40e9, 20e-6, "400 Gbit/s between 8 machines"),
)


class Gpu(NamedTuple):
    """One GPU training the paper's MNIST model (T = 80), and where the figure comes from."""

    images_per_second: float
    batch: int
    source: str


def gpu(results: Path) -> Gpu:
    """The fastest that was measured, else an assumption."""
    path = results / "throughput-cuda.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    measured = [
        Gpu(
            row["training"]["seqgen"]["images_per_second"],
            row["batch"],
            f"measured, {row['machine']['chip']}, {row['precision']}",
        )
        for row in rows
        if row["name"] == "sgm-80"
    ]
    return max(measured, default=Gpu(15_000.0, 1024, "an assumption"))


def all_reduce_seconds(cluster: Cluster, size: float) -> float:
    """A ring's all-reduce of `size` bytes: 2 (n - 1) messages of size / n bytes, one after the other."""
    messages = 2 * (cluster.gpus - 1)
    return messages * (size / cluster.gpus / cluster.bandwidth + cluster.latency)


def on_paper(cluster: Cluster, one: Gpu, size: float, images: int) -> Row:
    """Images/s of the cluster with `one.batch` images a GPU and no overlap, and what `images` take."""
    exchange = all_reduce_seconds(cluster, size)
    step = one.batch / one.images_per_second + exchange
    batch = cluster.gpus * one.batch
    return {
        **cluster._asdict(),
        "all_reduce_seconds": exchange,
        "images_per_second": batch / step,
        "efficiency": one.batch / one.images_per_second / step,
        "minutes": images * step / batch / 60,
        "updates": images // batch,
    }


def paper() -> Row:
    """The estimates for the paper's MNIST model and its number of images."""
    recipe = Specification("sgm-mnist").resolved()
    parameters = build(recipe.model, recipe.data.side, recipe.data.side, INK).parameters()
    size = 4 * sum(parameter.numel() for parameter in parameters)
    one, images = gpu(page.RESULTS), recipe.train.epochs * _MNIST[0]
    rows = [on_paper(cluster, one, size, images) for cluster in CLUSTERS]
    return {"gpu": one._asdict(), "bytes": size, "images": images, "clusters": rows}


def ends_of_epoch(row: Row, logging: float) -> dict[str, tuple[float, float]]:
    """Seconds of an epoch's end on two processes, and their share of the seconds that it trains."""
    train, held_out = row["images"]
    training = train / row["images_per_second"][str(PROCESSES)]
    spent = {
        "checkpoint": row["checkpoint"],
        "logging": logging,
        "held out": held_out * row["held_out_image"],
    }
    return {"training": (training, 1.0), **{name: (s, s / training) for name, s in spent.items()}}


def tables(result: Row) -> str:
    """Modes, ends of an epoch, the estimate, as markdown."""
    modes, ends = [], []
    for name, row in result["models"].items():
        alone, threads, processes = (row["images_per_second"][str(mode)] for mode in MODES)
        exchange = row["exchange"]
        modes.append(
            [
                name,
                *(f"{rate:,.0f}" for rate in (alone, threads, processes)),
                f"**{processes / threads:.2f}**",
                f"{threads / 2 / alone:.0%} / {processes / 2 / alone:.0%}",
                f"{exchange['bytes'] / 1e6:.1f}",
                f"{1e3 * exchange['alone']:.1f}",
                f"{1 - exchange['apart'] / exchange['summed']:.1%}",
            ]
        )
        spent = ends_of_epoch(row, result["logging"])
        ends.append(
            [
                name,
                f"{row['images'][0]:,} / {row['images'][1]:,}",
                f"{spent['training'][0]:,.1f}",
                *(
                    f"{seconds:.2f} ({share:.1%})"
                    for seconds, share in (spent[key] for key in ("checkpoint", "logging", "held out"))
                ),
            ]
        )
    estimate = [
        [
            str(row["gpus"]),
            row["link"],
            f"{row['bandwidth'] / 1e9:.0f} / {1e6 * row['latency']:.0f}" if row["gpus"] > 1 else "-",
            f"{1e3 * row['all_reduce_seconds']:.2f}",
            f"{row['images_per_second']:,.0f}",
            f"{row['efficiency']:.1%}",
            f"{row['minutes']:,.1f}",
            f"{row['updates']:,}",
        ]
        for row in result["paper"]["clusters"]
    ]
    return "\n\n".join(
        [
            page.table(
                [
                    "model",
                    *(f"{mode}, images/s" for mode in MODES),
                    "2 x 1 against 1 x 2",
                    "efficiency, 1 x 2 / 2 x 1",
                    "gradients, MB",
                    "all-reduce alone, ms",
                    "all-reduce and waiting, share of a step",
                ],
                modes,
            ),
            "Modes are processes x threads each. What ends an epoch on 2 x 1, in seconds and as a share of its "
            "training (logging: CPU time of the driver):",
            page.table(
                ["model", "images / held out", "training, s", "checkpoint", "logging", "held-out bound"], ends
            ),
            _assumptions(result["paper"]),
            page.table(
                [
                    "GPUs",
                    "slowest link",
                    "GB/s / us",
                    "all-reduce, ms",
                    "images/s",
                    "efficiency",
                    "minutes",
                    "updates",
                ],
                estimate,
            ),
        ]
    )


def _assumptions(paper: Row) -> str:
    one = paper["gpu"]
    return (
        f"**An estimate, not a measurement**: the paper's MNIST model (T = 80) for its {paper['images'] / 1e6:.1f} "
        f"million images. One GPU: {one['images_per_second']:,.0f} images/s at batch {one['batch']:,} "
        f"({one['source']}). Every GPU keeps that batch; a ring's all-reduce of {paper['bytes'] / 1e6:.1f} MB takes "
        "2 (n - 1) (bytes / n / bandwidth + latency), and nothing of it overlaps with the backward pass. Bandwidth "
        "and latency of the links are assumed. Not in it: slower machines that the others wait for, loading, what "
        "ends an epoch, and that a larger batch with fewer updates learns less from the same images."
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and publish."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--steps", type=int, default=15, help="batches of an epoch")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of a run, the first one untimed")
    parser.add_argument("--rounds", type=int, default=3, help="runs in each mode")
    options = parser.parse_args(arguments)
    result: Row = {
        "command": page.command(),
        "machine": page.machine(_CPU),
        **vars(options),
        "models": {
            name: measure(model, options.steps, options.epochs, options.rounds)
            for name, model in MODELS.items()
        },
        "logging": in_fresh_process(logging_seconds, options.rounds),
        "paper": paper(),
    }
    machine = result["machine"]
    text = (
        f"{tables(result)}\n\n* `{result['command']}`: {machine['chip']}, {machine['cores']} cores, torch "
        f"{machine['torch']}, wall time, medians of {options.rounds} runs of {options.epochs - 1} epochs of "
        f"{options.steps} batches."
    )
    page.publish("scaling", result, text)
    print(text)


if __name__ == "__main__":
    main()
