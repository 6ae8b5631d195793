"""A training process for tests: `python -m tests.training.child '<json>'`, one for each rank.

Writes a checkpoint after every epoch under `out`/epoch-N (rank 0), the metrics to `out`/metrics.json, and the
final averaged weights to `out`/weights-<rank>.pt.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from seqgen.data.images import ImageSet
from seqgen.data.settings import DataConfig
from seqgen.models import build
from seqgen.settings import ModelConfig, TrainConfig
from seqgen.training import ProcessGroup, Progress, SaveFn, fit

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


def main(task: dict) -> None:
    """Train one rank."""
    out, rank, size = Path(task["out"]), task.get("rank", 0), task.get("size", 1)
    torch.set_num_threads(1)
    if size > 1:
        torch.distributed.init_process_group(
            "gloo", f"file://{out / 'rendezvous'}", rank=rank, world_size=size
        )
    torch.manual_seed(100 + rank)  # other ranks must take the weights of the first
    metrics: list[dict[str, float]] = []

    def on_epoch(progress: Progress, save: SaveFn) -> None:
        metrics.append({"epoch": progress.epoch, "step": progress.step, **progress.metrics})
        if rank == 0:
            save(out / f"epoch-{progress.epoch}")
            print(progress.epoch, flush=True)

    resume, bits = Path(task["resume"]) if task.get("resume") else None, task.get("bits", False)
    average = fit(
        build(BITS if bits else MODEL, 28, 28),
        digits(60),
        digits(31),
        DATA,
        NVIL if bits else TRAIN,
        group=ProcessGroup.joined(torch.device("cpu")),
        resume=resume,
        on_epoch=on_epoch,
    )
    torch.save(average.state_dict(), out / f"weights-{rank}.pt")
    (out / f"metrics-{rank}.json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
