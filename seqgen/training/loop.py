"""The training loop: the same steps, and on a CPU the same bits, whether or not it was interrupted."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seqgen import native
from seqgen.core.errors import NumericalError
from seqgen.data.batches import Batch, TrainingBatches, fixed_set, generator_at
from seqgen.data.images import ImageSet
from seqgen.data.settings import DataConfig
from seqgen.models.generator import Bound, SequentialGenerator
from seqgen.settings import TrainConfig, flatten
from seqgen.training.checkpoint import Position, Trainee, load_checkpoint, save_checkpoint
from seqgen.training.process_group import ProcessGroup
from seqgen.training.schedule import average_decay, kl_weight, learning_rate


@dataclass(frozen=True)
class Progress:
    """A run after an epoch: completed epochs and optimiser steps, and the metrics (nats per image)."""

    epoch: int
    step: int
    metrics: dict[str, float]
    last: bool


SaveFn = Callable[[Path], None]
_CPU = torch.device("cpu")
_LOOK_EVERY = 100  # steps between looks at the device for a gradient that is not finite

OnEpoch = Callable[[Progress, SaveFn], bool | None]


def fit(
    model: SequentialGenerator,
    train: ImageSet,
    valid: ImageSet | None,
    data: DataConfig,
    config: TrainConfig,
    *,
    group: ProcessGroup | None = None,
    resume: Path | None = None,
    on_epoch: OnEpoch | None = None,
    settings: Mapping[str, Any] | None = None,
) -> SequentialGenerator:
    """Minimise the free energy over `train` and return the averaged weights, the same on every rank.

    `on_epoch(progress, save)` is called on every rank after each epoch: `save(directory)` writes a complete
    checkpoint (one rank is enough), and True from any rank stops the run. `resume` is such a directory, made
    with the same settings; `settings` says what else must not have changed since (digests of data and code).
    Of `config`, the caller sees to `workers`, `checkpoint_every` and `max_failures`.

    Raises BadInput (batch and data do not fit, another run's checkpoint), OperationalError (damaged
    checkpoint), NumericalError before the step that a non-finite gradient would spoil.
    """
    group = group or ProcessGroup()
    run = _Run(model.to(group.device), train.to(group.device), data, config, group)
    held_out = None if valid is None else _HeldOut(valid, data, run.average, config, group)
    decisive = {
        "data": data.model_dump(mode="json"),
        "model": model.config.model_dump(),
        "train": config.learned(),
    }
    bound_to = {**flatten(decisive), **(settings or {})}
    start = 0
    if resume is not None:
        start = load_checkpoint(resume, run.trainee, bound_to).epoch

    for epoch in range(start, config.epochs):
        began = time.monotonic()
        metrics = run.epoch(epoch)
        done, last = epoch + 1, epoch + 1 == config.epochs
        if held_out is not None and (last or done % config.evaluate_every == 0):
            metrics[f"valid/{data.binarise}/free_energy"] = held_out.free_energy()
        metrics["seconds"] = time.monotonic() - began
        if on_epoch is None:
            continue
        position = Position(done, done * run.batches.steps)

        def save(directory: Path, position: Position = position) -> None:
            save_checkpoint(directory, run.trainee, position, bound_to)

        if group.any(bool(on_epoch(Progress(done, position.step, metrics, last), save))):
            break
    return run.average


class _Run:
    """The state of a training run and its step."""

    def __init__(
        self,
        model: SequentialGenerator,
        train: ImageSet,
        data: DataConfig,
        config: TrainConfig,
        group: ProcessGroup,
    ) -> None:
        self.config, self.group = config, group
        self.batches = TrainingBatches(
            train,
            data,
            model.noise_shape(config.batch),
            conditional=model.config.conditional,
            seed=config.seed,
            rank=group.rank,
            size=group.size,
        )
        self.total = config.epochs * self.batches.steps
        self.parameters: list[Tensor] = list(model.parameters())
        model.recompute = config.recompute
        model.compile_step(config.compile)
        if group.device.type == "cpu":
            native.keep_freed_memory()
        self.forward: nn.Module = model
        if group.size > 1:  # also gives every rank the first one's weights
            self.forward = nn.parallel.DistributedDataParallel(
                self.forward, forward_sync_buffers=False, gradient_as_bucket_view=True
            )
        self.average = copy.deepcopy(model).requires_grad_(False).eval()
        self.averages: list[Tensor] = list(self.average.parameters())
        optimiser = torch.optim.Adam(self.parameters, lr=config.learning_rate, fused=True)
        self.trainee = Trainee(model, self.average, optimiser)
        if group.size > 1:
            # After its first backward pass DDP orders its buckets anew, and with them its sums. Spend one
            # pass on that, so that a resumed run adds in the same order as one that was not interrupted.
            self._loss(self.batches.at(0, 0), 0)[0].backward()
            optimiser.zero_grad()

    def epoch(self, epoch: int) -> dict[str, float]:
        """Train one epoch (0-based); the means of its metrics over all images and ranks."""
        steps, device = self.batches.steps, self.group.device
        sums = torch.zeros(2, device=device, dtype=torch.float64)
        norms = torch.zeros((), device=device, dtype=torch.float64)
        spoiled = torch.full((), steps, device=device)  # the first step whose gradient is not finite
        began, rate = time.monotonic(), 0.0
        self.trainee.model.train()
        for index in range(steps):
            step = epoch * steps + index
            loss, parts = self._loss(self.batches.at(epoch, index), step)
            loss.backward()
            del loss  # and with it what the run laid out of its weights
            norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
            spoiled = spoiled.minimum(torch.where(norm.isfinite(), steps, index))
            rate = self._advance(step, spoiled < steps)
            sums += parts
            norms += norm
            if device.type == "cpu" or (index + 1) % _LOOK_EVERY == 0 or index + 1 == steps:
                self._refuse(epoch, int(spoiled))
        seconds = time.monotonic() - began
        kl, log_likelihood = (self.group.sum(sums) / (steps * self.group.size)).tolist()
        return {
            "train/free_energy": kl - log_likelihood,
            "train/kl": kl,
            "train/log_likelihood": log_likelihood,
            "learning_rate": rate,
            "grad_norm": float(norms) / steps,
            "images_per_second": steps * self.config.batch / seconds,
        }

    def _loss(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """The loss, and [mean KL, mean log-likelihood] of this rank's images."""
        with torch.autocast(
            self.group.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"
        ):
            bound: Bound = self.forward(*batch)
        kl, log_likelihood = bound.kl.float().sum(0), bound.log_likelihood.float()
        loss = (kl_weight(step, self.config) * kl - log_likelihood).mean()
        return loss, torch.stack([kl.mean(), log_likelihood.mean()]).detach().double()

    def _refuse(self, epoch: int, spoiled: int) -> None:
        """Stop at a gradient that is not finite; it is the same on all ranks, which sum it."""
        if spoiled < self.batches.steps:
            raise NumericalError(
                f"the gradient is not finite at epoch {epoch + 1}, step {epoch * self.batches.steps + spoiled}, "
                f"seed {self.config.seed}; no step taken. "
                f"Lower train.learning_rate={self.config.learning_rate:g}"
            )

    def _advance(self, step: int, spoiled: Tensor) -> float:
        """Step the optimiser, unless `spoiled`, and the average; returns the learning rate used."""
        optimiser = self.trainee.optimiser
        rate = learning_rate(step, self.total, self.config)
        for group in optimiser.param_groups:
            group["lr"] = rate
        # Adam's fused kernel looks at it on the device, so that the host need not wait for every step's norm.
        optimiser.found_inf = spoiled.float()  # type: ignore[attr-defined]
        optimiser.step()
        optimiser.zero_grad()
        with torch.no_grad():
            decay = average_decay(step, self.config.ema)
            torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)
        return rate


class _HeldOut:
    """The bound of the averaged weights over the held-out set, in float32, every image once.

    Bits, pairs and noise are drawn on the CPU: the same whatever the device, the epoch and the ranks.
    """

    def __init__(
        self,
        valid: ImageSet,
        data: DataConfig,
        average: SequentialGenerator,
        config: TrainConfig,
        group: ProcessGroup,
    ) -> None:
        conditional = average.config.conditional
        drawn = fixed_set(valid.to(_CPU), data, conditional, config.seed)
        self.x = drawn.x.to(group.device)
        self.partner = None if drawn.partner is None else drawn.partner.to(group.device)
        self.noise_shape = average.noise_shape(config.batch)
        self.model = average
        self.config, self.group = config, group

    @torch.no_grad()
    def free_energy(self) -> float:
        """The mean free energy in nats; the ranks share each batch, the last is filled up and masked."""
        x, partner = self.x, self.partner
        count, batch, device = len(x), self.config.batch, self.group.device
        share = batch // self.group.size
        mine = slice(self.group.rank * share, (self.group.rank + 1) * share)
        total = torch.zeros(1, dtype=torch.float64, device=device)
        for start in range(0, count, batch):
            noise = torch.randn(
                self.noise_shape, generator=generator_at(_CPU, self.config.seed, "held out", start)
            )[:, mine]
            place = torch.arange(start, start + batch, device=device)[mine]
            index = place.clamp(max=count - 1)
            context = None if partner is None else x[partner[index]].unsqueeze(1).float()
            bound: Bound = self.model(x[index].unsqueeze(1).float(), context, noise.contiguous().to(device))
            free_energy = bound.kl.double().sum(0) - bound.log_likelihood.double()
            total += torch.where(place < count, free_energy, 0).sum()
        return float(self.group.sum(total)) / count
