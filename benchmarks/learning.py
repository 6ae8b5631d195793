"""Test bound against seconds of training on static MNIST: `python -m benchmarks.learning --minutes 15`.

`textbook` is DRAW as public code trains it: benchmarks/textbook.py, T = 10, the paper's other sizes, torch's
initialisation, Adam at 1e-3, clip 10. `seqgen` is the recipe mnist-first (ST + CGRU) by `fit`, its epochs chosen to
fill the time: another model, start and rate, so the curves tell what either user gets, not what the code alone is
worth. The time is that of training: evaluation stops the clock, and the steps that tell how many epochs fit are not in
it. A run replaces its own part of the results, so the two can be made one after the other.
"""

from __future__ import annotations

import argparse
import copy
import io
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import page
from benchmarks.steps import step_of
from benchmarks.textbook import textbook
from pipelines.artifacts.places import places
from pipelines.recipes import load_recipe
from seqgen.core.errors import BadInput
from seqgen.core.files import write_bytes
from seqgen.data.batches import TrainingBatches, generator_at
from seqgen.data.images import ImageSet, load_split
from seqgen.data.manifest import FILE_NAME, read_manifest
from seqgen.evaluation.bounds import CHUNK
from seqgen.evaluation.errors import Estimate, estimate
from seqgen.models import SequentialModel, build
from seqgen.settings import Recipe
from seqgen.training import EachEpoch, Progress, SaveFn, fit
from seqgen.training.checkpoint import load_average

RECIPE = "draw-mnist"
# What differs from the recipe. The textbook keeps the paper's windows (2x2, 5x5) and K = 100.
TEXTBOOK: dict[str, Any] = {"model.steps": 10, "train.learning_rate": 1e-3, "train.warmup_steps": 0}
_CPU = torch.device("cpu")
_EVERY = 30.0  # seconds of training between points
_MARKS = (1 / 8, 1 / 4, 1 / 2, 3 / 4)  # of the time, in the table
_COLOURS = {"textbook": "#d55e00", "seqgen": "#0072b2"}

Energies = Callable[[Tensor, Tensor], Tensor]  # x [B,1,H,W], noise [T,B,K] -> F [B] in nats


@dataclass(frozen=True)
class Digits:
    """The set of the benchmark: training and test images, the mean training pixel, what the set is called."""

    train: ImageSet
    test: ImageSet
    mean: float
    title: str


@dataclass(frozen=True)
class Point:
    """The test bound in nats after so many seconds (wall, CPU over all threads) and steps of training."""

    wall: float
    cpu: float
    step: int
    bound: float


class Clock:
    """Wall and CPU seconds of training; they stand still while it is paused."""

    def __init__(self) -> None:
        self._began = (time.perf_counter(), time.process_time())

    def seconds(self) -> tuple[float, float]:
        """Wall and CPU seconds so far."""
        return time.perf_counter() - self._began[0], time.process_time() - self._began[1]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside takes no time."""
        wall, cpu = self.seconds()
        yield
        self._began = (time.perf_counter() - wall, time.process_time() - cpu)


def digits(directory: Path | None) -> Digits:
    """The sharded static MNIST under `directory`, by default where `shard --recipe draw-mnist` leaves it.

    Raises BadInput if there is none or the set is not binary.
    """
    directory = directory or places(load_recipe(RECIPE)).shards
    if not (directory / FILE_NAME).is_file():
        raise BadInput(
            f"{directory}: no shards here; make them with `python -m pipelines.fetch --recipe {RECIPE}` and "
            f"`python -m pipelines.shard --recipe {RECIPE}` (SEQGEN_MIRROR may name a folder with the raw "
            "files), or name another place with --data"
        )
    manifest = read_manifest(directory)
    if manifest.levels != 2:
        raise BadInput(f"{directory}: {manifest.title} is grey; --data must name a set stored binary")
    train, test = (load_split(directory, split) for split in ("train", "test"))
    return Digits(train, test, manifest.mean, manifest.title)


def usual_start(plain: nn.Module) -> None:
    """Torch's default initialisation, zero initial states that are not learned: how public DRAWs start."""
    for module in plain.modules():
        if isinstance(module, nn.Linear | nn.LSTMCell):
            module.reset_parameters()
        if isinstance(module, nn.ParameterDict):
            for start in module.values():
                nn.init.zeros_(start).requires_grad_(False)


@torch.no_grad()
def bound_of(energies: Energies, images: ImageSet, model: SequentialModel) -> Estimate:
    """F of `images` in nats, one posterior sample each; the same noise, of `model`'s latents, each time."""
    noise_of, values = generator_at(_CPU, 0, "learning"), []
    for x in images.images.unsqueeze(1).split(CHUNK):
        values.append(energies(x.float(), model.noise(len(x), noise_of)))
    return estimate(torch.cat(values))


class Curve:
    """The points of one run, and the clock they are read from."""

    def __init__(self, digits: Digits, model: SequentialModel, images: int) -> None:
        # Not the first ones: Larochelle's test file goes class by class, zeros first.
        self.sample, self.test, self.model = digits.test.spread(images), digits.test, model
        self.points: list[Point] = []
        self.clock = Clock()

    def due(self) -> bool:
        """Whether it is time for the next point."""
        return self.clock.seconds()[0] >= (self.points[-1].wall if self.points else 0.0) + _EVERY

    def add(self, energies: Energies, step: int) -> None:
        """Measure with the clock paused."""
        seconds = self.clock.seconds()
        with self.clock.paused():
            bound = bound_of(energies, self.sample, self.model).mean
            self.points.append(Point(*seconds, step, bound))
            print(f"  {seconds[0]:6.0f} s, step {step:6d}: {bound:.1f} nats", flush=True)

    def result(self, energies: Energies) -> dict[str, Any]:
        """The points, and the last weights' bound over the whole test set."""
        final = bound_of(energies, self.test, self.model)
        return {
            "points": [asdict(point) for point in self.points],
            "images": len(self.sample),
            "final": {**final._asdict(), "images": len(self.test)},
        }


def run_textbook(recipe: Recipe, digits: Digits, seconds: float, images: int) -> dict[str, Any]:
    """Train the textbook's model at a constant rate until the time is over."""
    seed, batch = recipe.train.seed, recipe.train.batch
    torch.manual_seed(seed)
    model = _fresh(recipe, digits)
    plain = textbook(model)
    usual_start(plain)
    batches = TrainingBatches(digits.train, recipe.data, batch, conditional=False, seed=seed)
    positions = ((epoch, index) for epoch in itertools.count() for index in range(batches.steps))
    noise_of = generator_at(_CPU, seed, "noise")

    def loss() -> Tensor:
        x, _ = batches.at(*next(positions))
        return plain(x, model.noise(batch, noise_of)).mean()

    train = step_of(loss, (p for p in plain.parameters() if p.requires_grad), recipe.train, fused=False)
    curve = Curve(digits, model, images)
    for step in itertools.count(1):
        train()
        over = curve.clock.seconds()[0] >= seconds
        if over or curve.due():
            curve.add(plain, step)
        if over:
            break
    return curve.result(plain)


def run_seqgen(recipe: Recipe, digits: Digits, seconds: float, images: int) -> dict[str, Any]:
    """Train by `fit` for as many epochs as fit into the time; the points are of the averaged weights."""
    rate, batch = _images_per_second(recipe, digits), recipe.train.batch
    epoch = len(digits.train) // batch * batch / rate
    config = recipe.train.model_copy(update={"epochs": max(1, int(seconds / epoch))})
    print(f"  {rate:.0f} images/s: {config.epochs} epochs", flush=True)
    torch.manual_seed(config.seed)
    model = _fresh(recipe, digits)
    average = copy.deepcopy(model)
    curve = Curve(digits, model, images)

    def on_epoch(progress: Progress, save: SaveFn) -> None:
        if not (curve.due() or progress.last):
            return
        with curve.clock.paused(), tempfile.TemporaryDirectory() as directory:
            save(Path(directory))
            load_average(Path(directory), average)
        curve.add(_energies(average), progress.step)

    trained = fit(model, digits.train, None, recipe.data, config, callbacks=[EachEpoch(on_epoch)])
    return curve.result(_energies(trained))


RUNS = {"textbook": (RECIPE, TEXTBOOK, run_textbook), "seqgen": ("mnist-first", {}, run_seqgen)}


def measure(
    name: str, digits: Digits, seconds: float, images: int, settings: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Make one run of RUNS, `settings` (dotted) over its own, and say what made it."""
    base, own, run = RUNS[name]
    recipe = load_recipe(base, [f"{key}={value}" for key, value in {**own, **(settings or {})}.items()])
    print(f"{name}: {seconds:.0f} s of training", flush=True)
    result = run(recipe, digits, seconds, images)
    return {
        "command": page.command(),
        "machine": page.machine(_CPU),
        "data": digits.title,
        "seconds": seconds,
        "recipe": recipe.name,
        "settings": {"model": recipe.model.model_dump(), "train": recipe.train.model_dump()},
        **result,
    }


def report(run: str, result: dict[str, Any]) -> None:
    """Put a run beside the other one's last in the results, the table and the picture."""
    path = page.RESULTS / "learning.json"
    runs = json.loads(path.read_text())["runs"] if path.is_file() else {}
    runs[run] = result
    write_bytes(page.PAGE.parent / "images" / "learning.png", picture(runs))
    page.publish("learning", {"runs": runs}, _section(runs))


def picture(runs: dict[str, Any]) -> bytes:
    """Every run's bound against wall and CPU seconds of training, as PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, key, label in (
        (axes[0], "wall", "seconds of training"),
        (axes[1], "cpu", "CPU seconds of training"),
    ):
        for name, run in sorted(runs.items()):
            x, y = ([point[part] for point in run["points"]] for part in (key, "bound"))
            axis.plot(x, y, color=_COLOURS[name], label=name, linewidth=1.6, marker="o", markersize=3)
        axis.set_xlabel(label)
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(0.8, 0.9, 1, 1.2, 1.5, 2, 3, 5)))
        axis.yaxis.set_major_formatter(ScalarFormatter())
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#e3e6eb", linewidth=0.8)
        axis.set_axisbelow(True)
    axes[0].set_ylabel("test bound F, nats per image")
    axes[0].legend(frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    return stream.getvalue()


def _section(runs: dict[str, Any]) -> str:
    longest = max(run["seconds"] for run in runs.values())
    marks = [mark * longest for mark in _MARKS]
    header = ["", *(f"{mark:.0f} s" for mark in marks), "end", "whole test set", "steps", "CPU s", "threads"]
    rows, made = [], []
    for name, run in sorted(runs.items()):
        last, final, machine = run["points"][-1], run["final"], run["machine"]
        rows.append(
            [
                name,
                *(_at(run["points"], mark) for mark in marks),
                f"{last['bound']:.1f} ({last['wall']:.0f} s)",
                f"{final['mean']:.2f} ± {final['se']:.2f}",
                f"{last['step']:,}",
                f"{last['cpu']:.0f}",
                str(machine["threads"]),
            ]
        )
        made.append(
            f"* {name} (recipe {run['recipe']}): `{run['command']}`; {run['data']}, F in nats on "
            f"{run['images']:,} of its test images; "
            f"{machine['chip']}, torch {machine['torch']}."
        )
    lines = [page.table(header, rows), "", *made, ""]
    if set(runs) == set(RUNS):
        level = runs["textbook"]["points"][-1]["bound"]
        reached = [point for point in runs["seqgen"]["points"] if point["bound"] <= level]
        if reached:
            lines += [
                f"seqgen is at the textbook's last bound by {reached[0]['wall']:.0f} s "
                f"({reached[0]['cpu']:.0f} CPU s).",
                "",
            ]
    return "\n".join([*lines, "![Test bound against seconds of training](images/learning.png)"])


def _at(points: list[dict[str, Any]], wall: float) -> str:
    """The bound at `wall` seconds, between the points on a straight line."""
    for before, after in itertools.pairwise(points):
        if before["wall"] <= wall <= after["wall"]:
            share = (wall - before["wall"]) / (after["wall"] - before["wall"])
            return f"{before['bound'] + share * (after['bound'] - before['bound']):.1f}"
    return "-"


def _fresh(recipe: Recipe, digits: Digits) -> SequentialModel:
    return build(recipe.model, digits.train.height, digits.train.width, digits.mean)


def _energies(model: SequentialModel) -> Energies:
    return lambda x, noise: model(x, None, noise).free_energy()


def _images_per_second(recipe: Recipe, digits: Digits, steps: int = 20) -> float:
    """The speed of `fit` in its second handful of steps."""
    few = digits.train.take(torch.arange(min(len(digits.train), steps * recipe.train.batch)))
    rates: list[float] = []
    fit(
        _fresh(recipe, digits),
        few,
        None,
        recipe.data,
        recipe.train.model_copy(update={"epochs": 2}),
        callbacks=[EachEpoch(lambda progress, save: rates.append(progress.metrics["images_per_second"]))],
    )
    return rates[-1]


def main(arguments: list[str] | None = None) -> None:
    """Make the runs asked for and publish them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=15, help="minutes of training, each run")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--data", type=Path, help="a sharded binary set; default: the recipe's artifacts")
    parser.add_argument("--which", choices=[*RUNS, "both"], default="both")
    parser.add_argument("--images", type=int, default=2000, help="test images of the points along the way")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    images = digits(chosen.data)
    for name in RUNS if chosen.which == "both" else [chosen.which]:
        report(name, measure(name, images, 60 * chosen.minutes, chosen.images))


if __name__ == "__main__":
    page.run(main)
