"""Estimate time, memory and cost from a measured step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal

import typer

from pipelines.artifacts.shards import checked_manifest, shards_of
from pipelines.cli.command import RecipeOption, SetOption
from pipelines.cli.progress import clock
from pipelines.cli.signals import raise_on_stop
from pipelines.estimate.measured import MeasuredStep, measure
from pipelines.recipes import load_recipe
from pipelines.search.search_space import checked_recipes, trial_count
from seqgen.data.manifest import Manifest
from seqgen.settings import Recipe

WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Same as --set train.workers=N.")]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option("--device", help="auto: a GPU if there is one.")
]
PriceOption = Annotated[float | None, typer.Option("--price-per-hour", min=0, help="Of one worker.")]
BatchesOption = Annotated[
    int, typer.Option("--batches", min=2, help="Batches of each of the epochs measured.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
_GIB = 2**30


@dataclass(frozen=True)
class Estimate:
    """A training of `epochs` of `steps` steps, with a look at `held_out` images after every `looks`-th; in seconds.

    times: how often it is made, as a search does; concurrent: how many of them at once.
    """

    measured: MeasuredStep
    workers: int
    epochs: int
    steps: int
    batch: int
    held_out: int
    looks: int
    memory_computed: int
    times: int = 1
    concurrent: int = 1

    @property
    def images_per_second(self) -> float:
        """Of all the workers of one training."""
        return self.batch / self.measured.step_seconds

    @property
    def one(self) -> float:
        """Seconds of one training."""
        held_out = self.looks * self.held_out * self.measured.held_out_seconds
        # What is held out is shared among the workers, as it was among the processes measured.
        shared = held_out * self.measured.processes / self.workers
        return self.epochs * self.steps * self.measured.step_seconds + shared

    @property
    def seconds(self) -> float:
        """Seconds of all of it."""
        return -(-self.times // self.concurrent) * self.one

    @property
    def worker_hours(self) -> float:
        """Hours in which a worker is taken, summed over workers."""
        return self.times * self.one * self.workers / 3600


def estimate(
    recipe: RecipeOption = None,
    settings: SetOption = None,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    price_per_hour: PriceOption = None,
    batches: BatchesOption = 8,
    as_json: JsonOption = False,
) -> None:
    """Train a few batches here, and say what the recipe's training, and its search, would take on N workers.

    The shards must be there. It says what was measured and what is extrapolated.
    """
    raise_on_stop()
    assignments = [*(settings or ()), *([f"train.workers={workers}"] if workers else ())]
    asked = load_recipe(recipe, assignments)
    manifest = checked_manifest(asked)
    found = {"training": of_training(asked, manifest, device, batches)}
    if asked.search is not None:
        found["search"] = of_search(asked, manifest, device, batches)
    if as_json:
        print(json.dumps({name: _as_json(each, price_per_hour) for name, each in found.items()}, indent=2))
        return
    for name, each in found.items():
        for line in _lines(name, each, price_per_hour):
            print(line)


def of_training(recipe: Recipe, manifest: Manifest, device: str, batches: int) -> Estimate:
    """The estimate of one training with the recipe's workers."""
    import torch

    from seqgen.training.memory import bytes_needed

    chosen: Literal["cpu", "cuda"] = "cpu"
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        chosen = "cuda"
    step = measure(recipe, str(shards_of(recipe)), chosen, batches)
    train = recipe.train
    return Estimate(
        measured=step,
        workers=train.workers,
        epochs=train.epochs,
        steps=manifest.splits["train"].images // train.batch,
        batch=train.batch,
        held_out=manifest.splits["valid"].images,
        looks=-(-train.epochs // train.evaluate_every),
        memory_computed=bytes_needed(recipe, manifest.height) // train.workers,
    )


def of_search(recipe: Recipe, manifest: Manifest, device: str, batches: int) -> Estimate:
    """The estimate of the recipe's search: its trial that needs most, as often as there are trials, none stopped."""
    from seqgen.training.memory import bytes_needed

    search = recipe.search
    assert search is not None
    largest = max(checked_recipes(recipe), key=bytes_needed)
    one = of_training(largest, manifest, device, batches)
    images = min(search.train_images or manifest.splits["train"].images, manifest.splits["train"].images)
    return replace(
        one,
        steps=images // largest.train.batch,
        times=trial_count(search),
        concurrent=max(1, recipe.train.workers // search.workers),
    )


def _as_json(found: Estimate, price: float | None) -> dict[str, object]:
    sums = {
        "images_per_second": found.images_per_second,
        "seconds": found.seconds,
        "worker_hours": found.worker_hours,
        "cost": None if price is None else price * found.worker_hours,
    }
    return {**asdict(found), **sums}


def _lines(name: str, found: Estimate, price: float | None) -> list[str]:
    step = found.measured
    alone = step.processes == 1
    where = f"{step.processes} process{'' if alone else 'es'} of {step.threads} thread{'s' if step.threads > 1 else ''}"
    together = "" if alone else ", which added their gradients"
    lines = [
        f"{name}",
        f"  measured here, {where} on {step.device}{together}, each with its share of the batch:",
        f"    a step {step.step_seconds:.4g} s, an image held out {step.held_out_seconds:.3g} s, "
        f"at most {step.memory / _GIB:.2f} GiB a process",
        f"  computed: {found.memory_computed / _GIB:.2f} GiB a worker for the model and what its gradients need",
    ]
    if found.times > 1 or name == "search":
        lines += [
            f"  extrapolated: {found.times} trials of {found.epochs} epochs of {found.steps} steps, "
            f"{found.concurrent} at once, {found.workers} worker{'s' if found.workers > 1 else ''} each: "
            f"at most {clock(found.seconds)}, {found.worker_hours:.2f} worker-hours",
            "    (all as long as the trial that needs most memory; ASHA stops most of them early)",
        ]
    else:
        lines.append(
            f"  extrapolated: {found.epochs} epochs of {found.steps} steps of {found.batch} images on "
            f"{found.workers} worker{'s' if found.workers > 1 else ''}: {found.images_per_second:,.0f} images/s, "
            f"{clock(found.seconds)}, {found.worker_hours:.2f} worker-hours"
        )
    if found.workers > step.processes:
        lines.append(
            f"    (a step of {found.workers} workers as long as one of {step.processes}: adding gradients over a "
            "network is not in it)"
        )
    lines.append("    (without Ray's start, about a minute, and without checkpoints)")
    if price is not None:
        lines.append(f"  cost at {price:g} a worker and hour: {price * found.worker_hours:.2f}")
    return lines
