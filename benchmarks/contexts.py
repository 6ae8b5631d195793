"""How the context enters: one change at a time, at equal time: `python -m benchmarks.contexts --seconds 120 --seeds 3`.

Every variant is the recipe (--recipe) with one setting changed, trained from scratch for the same CPU seconds of one
thread, its rate falling by the recipe's cosine within them, and measured on the same random images of valid, that is of
characters held back: recipes are chosen by it, test is not looked at. What was measured is kept: a second run goes on,
and `--only` adds some variants.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import page
from pipelines.artifacts.places import places
from pipelines.recipes import load_recipe
from seqgen import native
from seqgen.core.errors import BadInput
from seqgen.data.batches import TrainingBatches, generator_at
from seqgen.data.images import load_split
from seqgen.data.manifest import FILE_NAME, read_manifest
from seqgen.evaluation import bounds
from seqgen.models import SequentialModel, build
from seqgen.settings import Recipe
from seqgen.training.schedule import average_decay

RECIPES = {"one-shot": "contexts", "one-shot-52": "contexts-52"}  # and the table of each
_SEVERAL = "train.contexts=[0, 1, 1, 1, 1, 1, 2, 3, 5, 10]"
# What is different from the recipe; the first is the recipe itself, but for the contexts, of which there is one.
VARIANTS: dict[str, list[str]] = {
    "the recipe, one context": [],
    "x' not in the posterior": ["model.infer_from_context=false"],
    "x' not drawn again": ["model.copy_grid=0"],
    "bent by 2 x 2 points, not 6 x 6": ["model.copy_grid=2"],
    "one sample a glimpse's pixel": ["model.samples=1"],
    "none of these": ["model.infer_from_context=false", "model.copy_grid=0", "model.samples=1"],
    "learned prior": ["model.prior=learned"],
    "KL warm-up, 500 steps": ["train.kl_warmup_steps=500"],
    "new classes": ["train.new_classes=0.8"],
    "0 to 10 contexts, attention over them": [_SEVERAL],
    "0 to 10 contexts, their mean": [_SEVERAL, "model.context=mean"],
}
BASE = ["train.contexts=[1]", "train.new_classes=0", "train.learning_rate=1e-3"]
_IMAGES, _WEIGHTED, _SAMPLES = 1000, 100, 50
_CPU = torch.device("cpu")


def train(recipe: Recipe, shards: Path, seconds: float, seed: int) -> tuple[SequentialModel, int]:
    """The averaged weights after `seconds` of CPU time, and how many images were seen."""
    config, manifest = recipe.train, read_manifest(shards)
    torch.manual_seed(seed)
    model = build(recipe.model, manifest.height, manifest.width, manifest.mean)
    average = copy.deepcopy(model).requires_grad_(False).eval()
    optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    images = load_split(shards, "train")
    plain, mapped = (
        TrainingBatches(
            images,
            recipe.data,
            config.batch,
            conditional=True,
            seed=seed,
            contexts=config.contexts,
            new_classes_until=until,
        )
        for until in (0, sys.maxsize)
    )
    warmup = getattr(config, "kl_warmup_steps", 0)
    began, step = time.process_time(), 0
    while (done := (time.process_time() - began) / seconds) < 1:
        share = config.final_rate + (1 - config.final_rate) * 0.5 * (1 + math.cos(math.pi * done))
        optimiser.param_groups[0]["lr"] = config.learning_rate * share
        batches = mapped if done < config.new_classes else plain
        x, context = batches.at(*divmod(step, batches.steps))
        bound = model(x, context, model.noise(len(x), generator_at(_CPU, seed, "noise", step)))
        weight = min(1.0, (step + 1) / warmup) if warmup else 1.0
        (weight * bound.kl.sum(0) - bound.log_likelihood).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimiser.step()
        optimiser.zero_grad()
        decay = average_decay(step, config.ema)
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        step += 1
    return average, step * config.batch


def measure(model: SequentialModel, recipe: Recipe, shards: Path) -> dict[str, float]:
    """Nats per image on the valid split: F with one context and with five, KL, IW bound, a foreign context's cost."""
    whole = bounds.hold_out(load_split(shards, "valid"), recipe.data, True, 0, contexts=5)
    given_five = whole.take(bounds.subset(len(whole), _IMAGES, 0, "contexts benchmark"))
    held_out = given_five.with_contexts(1)
    found = bounds.free_energies(model, held_out, 0)
    foreign = bounds.foreign_context(held_out, 0)
    assert foreign is not None
    misled = bounds.free_energies(model, replace(held_out, context=foreign), 0, purpose="foreign")
    of_five = bounds.free_energies(model, given_five, 0)
    few = torch.arange(0, _IMAGES, _IMAGES // _WEIGHTED)
    weighted = bounds.importance_bounds(model, held_out.take(few), _SAMPLES, 0)
    return {
        "free_energy": found.free_energy.mean().item(),
        "free_energy_5_contexts": of_five.free_energy.mean().item(),
        "kl": found.kl.sum().item(),
        "weighted": (found.free_energy.mean() - (found.free_energy[few] - weighted).mean()).item(),
        "foreign_context_cost": (misled.free_energy - found.free_energy).mean().item(),
    }


def rows(runs: list[dict[str, Any]]) -> list[list[str]]:
    """A row a variant: images seen, then mean and standard deviation over the seeds."""
    table = []
    for name in VARIANTS:
        mine = [run for run in runs if run["variant"] == name]
        if not mine:
            continue
        cells = [f"{statistics.mean(run['images'] for run in mine):,.0f}"]
        for key in ("free_energy", "free_energy_5_contexts", "weighted", "kl", "foreign_context_cost"):
            values = [run[key] for run in mine]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        table.append([name, *cells])
    return table


def main(arguments: list[str] | None = None) -> None:
    """Run what is not there yet, keep each run at once, publish the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120, help="CPU seconds of one thread a run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipe", choices=list(RECIPES), default="one-shot")
    parser.add_argument("--data", type=Path, help="shards of another place")
    parser.add_argument("--only", action="append", choices=list(VARIANTS), help="may be given several times")
    options = parser.parse_args(arguments)
    table = RECIPES[options.recipe]
    base = load_recipe(options.recipe, BASE)
    shards = options.data or places(base).shards
    if not (shards / FILE_NAME).is_file():
        raise BadInput(
            f"{shards}: no shards; run fetch and shard with --recipe {options.recipe}, or name them with --data"
        )
    torch.set_num_threads(1)
    native.keep_freed_memory()
    path = page.RESULTS / f"{table}.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    kept = before.get("runs", [])
    recipes = {name: load_recipe(options.recipe, [*BASE, *changes]) for name, changes in VARIANTS.items()}
    settings = {name: recipe.digest() for name, recipe in recipes.items()}
    for seed in range(options.seeds):
        for name in options.only or VARIANTS:
            recipe = recipes[name]
            identity = {
                "variant": name,
                "seed": seed,
                "seconds": options.seconds,
                "settings": settings[name],
                "machine": page.machine(_CPU),
            }
            if any(identity.items() <= run.items() for run in kept):
                continue
            model, images = train(recipe, shards, options.seconds, seed)
            run = {**identity, "images": images, **measure(model, recipe, shards)}
            kept.append(run)
            print(json.dumps(run), flush=True)
            alike = {"seconds": options.seconds, "machine": run["machine"]}.items()
            runs = [
                one
                for one in kept
                if alike <= one.items() and one["settings"] == settings.get(one["variant"])
            ]
            result = {"command": page.command(), "runs": kept}
            header = ["", "images", "F", "F, 5 contexts", f"IW-{_SAMPLES}", "KL", "cost of a foreign context"]
            machine = run["machine"]
            below = f"\n\n`{result['command']}`; {machine['chip']}, torch {machine['torch']}."
            page.publish(table, result, page.table(header, rows(runs)) + below)


if __name__ == "__main__":
    page.run(main)
