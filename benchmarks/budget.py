"""Trains a recipe where there is neither Ray nor MLflow: `python -m benchmarks.budget --recipe sgm-mnist DIRECTORY`.

Needs the recipe's shards (verbs fetch and shard). The same command goes on from the last checkpoint, which with the
history lies in DIRECTORY/checkpoint; how often there is one is train.checkpoint_every.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from pipelines.artifacts.history import FILE_NAME, read_history, write_history
from pipelines.artifacts.places import places
from pipelines.recipes import load_recipe
from seqgen.core.files import directory_writer
from seqgen.settings import Recipe
from seqgen.training import EachEpoch, ProcessGroup, Progress, SaveFn, run


def train(recipe: Recipe, directory: Path, device: torch.device) -> None:
    """Train up to `train.epochs`, a line an epoch. Raises what `run` raises."""
    checkpoint = directory / "checkpoint"
    resume = checkpoint if checkpoint.is_dir() else None
    rows = read_history(checkpoint / FILE_NAME) if resume else []

    def on_epoch(progress: Progress, save: SaveFn) -> None:
        rows.append({"epoch": progress.epoch, "step": progress.step, **progress.metrics})
        metrics = "  ".join(f"{key} {value:.4g}" for key, value in progress.metrics.items())
        print(f"epoch {progress.epoch} of {recipe.train.epochs}  {metrics}", flush=True)
        if progress.last or progress.epoch % recipe.train.checkpoint_every == 0:
            with directory_writer(checkpoint) as fresh:
                write_history(fresh / FILE_NAME, rows)
                save(fresh)

    run(
        recipe,
        places(recipe).shards,
        group=ProcessGroup(device=device),
        resume=resume,
        callbacks=[EachEpoch(on_epoch)],
    )


def main() -> None:
    """Train what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    options = parser.parse_args()
    train(load_recipe(options.recipe, options.settings), options.directory, torch.device(options.device))


if __name__ == "__main__":
    main()
