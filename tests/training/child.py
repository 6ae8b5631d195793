"""A training process for tests: `python -m tests.training.child '<json>'`, one for each rank.

Writes a checkpoint after every epoch, and after every `save_every` steps, under `out`/step-N (rank 0), the metrics
to `out`/metrics-<rank>.json, the steps not taken to `out`/skipped-<rank>.json, how often its wish was asked for to
`out`/asked-<rank>.json, and the final averaged weights to `out`/weights-<rank>.pt. `spoil` names steps at which this
rank's noise is NaN; the `stop`th time that it is asked the first rank wishes to stop; with `seldom` it looks up as on
a GPU, where that many of each rank fit the time; `bits` takes Bernoulli latents, by the score function;
`settings` are those of training.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import torch

from seqgen.core.errors import NumericalError, StoppedEarly
from seqgen.data.images import ImageSet
from seqgen.data.settings import DataConfig
from seqgen.models import SequentialModel, build
from seqgen.settings import ModelConfig, TrainConfig
from seqgen.training import Callback, Position, ProcessGroup, Progress, SaveFn, Skipped, Wish, fit, looks

DATA = DataConfig(source="mnist-5k", size=28, binarise="dynamic")
MODEL = ModelConfig(
    steps=2,
    hidden=16,
    latents=4,
    read_size=5,
    write_size=5,
    canvas_channels=2,
    posterior_hidden=16,
    conditional=True,
)
TRAIN = TrainConfig(epochs=5, batch=12, workers=1, learning_rate=1e-2, warmup_steps=3, ema=0.9, seed=7)
BITS = ModelConfig(**MODEL.given() | {"latent": "bernoulli"})
NVIL = TrainConfig(**TRAIN.given() | {"objective": "score-function", "learning_rate": 1e-3})


def digits(count: int) -> ImageSet:
    """Grey bars of four classes."""
    images = torch.zeros(count, 28, 28, dtype=torch.uint8)
    labels = torch.arange(count) % 4
    for number, label in enumerate(labels.tolist()):
        images[number, 4 + 5 * label : 9 + 5 * label, 5:23] = 100 + 3 * (number % 50)
    return ImageSet(images, 256, labels, torch.full((count,), -1), ("0", "1", "2", "3"))


class Saving(Callback):
    """Saves every so many steps and after each epoch, and stops before step `stop`; rank 0 alone has these wishes."""

    def __init__(self, out: Path, rank: int, every: int | None, stop: int | None) -> None:
        self.out, self.rank, self.every, self.stop = out, rank, every, stop
        self.asked, self.lost = 0, []
        self.metrics: list[dict[str, float]] = []

    def wish(self) -> Wish:
        self.asked += 1
        if self.rank == 0 and self.stop and self.asked >= self.stop:
            return Wish.STOP
        return Wish.SAVE if self.rank == 0 and self.every and self.asked % self.every == 0 else Wish.GO_ON

    def save(self, position: Position, save: SaveFn) -> None:
        if self.rank == 0:
            save(self.out / f"step-{position.step:03d}")
            print(position.step, flush=True)

    def epoch(self, progress: Progress, save: SaveFn) -> None:
        self.metrics.append({"epoch": progress.epoch, "step": progress.step, **progress.metrics})
        self.save(Position(progress.epoch, progress.step), save)

    def skipped(self, step: Skipped) -> None:
        self.lost.append([step.epoch, step.step, step.seed, step.samples])


def spoil(model: SequentialModel, steps: list[int]) -> None:
    """Let the noise of the training steps of these numbers be NaN, in this process only."""
    noise, calls = model.noise, itertools.count(-int(torch.distributed.is_initialized()))

    def spoiled(batch: int, generator: torch.Generator) -> torch.Tensor:
        drawn = noise(batch, generator)
        return drawn * torch.nan if torch.is_grad_enabled() and next(calls) in steps else drawn

    model.noise = spoiled


def main(task: dict) -> None:
    """Train one rank."""
    out, rank, size = Path(task["out"]), task.get("rank", 0), task.get("size", 1)
    torch.set_num_threads(1)
    if size > 1:
        torch.distributed.init_process_group(
            "gloo", f"file://{out / 'rendezvous'}", rank=rank, world_size=size
        )
    torch.manual_seed(100 + rank)  # other ranks must take the weights of the first
    resume, bits = Path(task["resume"]) if task.get("resume") else None, task.get("bits", False)
    if seldom := task.get("seldom"):
        looks.at_every_step = lambda device: False
        looks.steps_between = lambda seconds: seldom[rank]
    model = build(BITS if bits else MODEL, 28, 28)
    spoil(model, task.get("spoil", []))
    saving = Saving(out, rank, task.get("save_every"), task.get("stop"))
    try:
        average = fit(
            model,
            digits(60),
            digits(31),
            DATA,
            (NVIL if bits else TRAIN).model_copy(update=task.get("settings", {})),
            group=ProcessGroup.joined(torch.device("cpu")),
            resume=resume,
            callbacks=[saving],
        )
    except (StoppedEarly, NumericalError) as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    finally:
        (out / f"metrics-{rank}.json").write_text(json.dumps(saving.metrics))
        (out / f"skipped-{rank}.json").write_text(json.dumps(saving.lost))
        (out / f"asked-{rank}.json").write_text(json.dumps(saving.asked))
    torch.save(average.state_dict(), out / f"weights-{rank}.pt")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
