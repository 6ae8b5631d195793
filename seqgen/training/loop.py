"""The training loop: the same steps, and on a CPU the same bits, whether or not it was interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from seqgen import native
from seqgen.core.errors import NumericalError
from seqgen.data.batches import TrainingBatches, generator_at
from seqgen.data.images import ImageSet
from seqgen.data.settings import DataConfig
from seqgen.evaluation.bounds import hold_out, mean_free_energy
from seqgen.models import SequentialModel
from seqgen.objectives import Batch, Objective, Outcome, State
from seqgen.settings import TrainConfig, flatten
from seqgen.settings.kinds import find
from seqgen.training.checkpoint import Position, Trainee, load_checkpoint, save_checkpoint
from seqgen.training.process_group import ProcessGroup
from seqgen.training.schedule import average_decay, learning_rate


@dataclass(frozen=True)
class Progress:
    """A run after an epoch: completed epochs and optimiser steps, and the metrics (nats per image)."""

    epoch: int
    step: int
    metrics: dict[str, float]
    last: bool


SaveFn = Callable[[Path], None]
OnEpoch = Callable[[Progress, SaveFn], bool | None]

_LOOK_EVERY = 100  # steps between looks at the device for a gradient that is not finite


def fit(
    model: SequentialModel,
    train: ImageSet,
    valid: ImageSet | None,
    data: DataConfig,
    config: TrainConfig,
    *,
    group: ProcessGroup | None = None,
    resume: Path | None = None,
    on_epoch: OnEpoch | None = None,
    settings: Mapping[str, Any] | None = None,
) -> SequentialModel:
    """Minimise the objective over `train` and return the averaged weights, the same on every rank.

    `on_epoch(progress, save)` is called on every rank after each epoch: `save(directory)` writes a complete
    checkpoint (one rank is enough), and True from any rank stops the run. `resume` is such a directory, made
    with the same settings; `settings` says what else must not have changed since (digests of data and code).
    Of `config`, the caller sees to `workers`, `checkpoint_every` and `max_failures`.

    Raises BadInput (batch and data do not fit, another run's checkpoint), OperationalError (damaged
    checkpoint), NumericalError before the step that a non-finite gradient would spoil.
    """
    group = group or ProcessGroup()
    conditional = model.config.conditional
    run = _Run(model.to(group.device), train.to(group.device), data, config, group)
    held_out = None
    if valid is not None:  # drawn on the CPU: the same whatever the device, the epoch and the ranks
        held_out = hold_out(valid.to("cpu"), data, conditional, config.seed, pairs=config.pairs)
    decisive = {
        "data": data.model_dump(mode="json"),
        "model": model.config.model_dump(mode="json"),
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
            metrics[data.held_out_metric] = mean_free_energy(run.averaged, held_out, config.seed, group)
        metrics["seconds"] = time.monotonic() - began
        if on_epoch is None:
            continue
        position = Position(done, done * run.batches.steps)

        def save(directory: Path, position: Position = position) -> None:
            save_checkpoint(directory, run.trainee, position, bound_to)

        if group.any(bool(on_epoch(Progress(done, position.step, metrics, last), save))):
            break
    return run.averaged


class _Loss(nn.Module):
    """The objective of a model as one module, whose gradients DistributedDataParallel averages over the ranks."""

    def __init__(self, objective: Objective, model: SequentialModel) -> None:
        super().__init__()
        self.objective, self.model = objective, model

    def forward(self, batch: Batch, state: State) -> Outcome:
        return self.objective(self.model, batch, state)


class _Run:
    """The state of a training run and its step."""

    def __init__(
        self,
        model: SequentialModel,
        train: ImageSet,
        data: DataConfig,
        config: TrainConfig,
        group: ProcessGroup,
    ) -> None:
        self.config, self.group, self.model = config, group, model
        self.batches = TrainingBatches(
            train,
            data,
            config.batch,
            conditional=model.config.conditional,
            seed=config.seed,
            rank=group.rank,
            size=group.size,
            pairs=config.pairs,
            contexts=config.contexts,
            new_classes_until=round(config.new_classes * config.epochs),
        )
        self.total = config.epochs * self.batches.steps
        make = find("objective", config.objective).load()
        objective: Objective = make(config.of("objective"), model.sizes).to(group.device)
        self.parameters: list[Tensor] = list(model.parameters())
        self.own: list[Tensor] = list(objective.parameters())
        model.recompute = config.recompute
        model.compile_step(config.compile)
        if group.device.type == "cpu":
            native.keep_freed_memory()
        self.loss: nn.Module = _Loss(objective, model)
        if group.size > 1:  # also gives every rank the first one's weights
            self.loss = nn.parallel.DistributedDataParallel(
                self.loss, forward_sync_buffers=False, gradient_as_bucket_view=True
            )
        self._decay = 0.0  # of the average, at the present step
        average = AveragedModel(model, multi_avg_fn=self._average, use_buffers=True)
        average.requires_grad_(False).eval()
        state = {name: value.to(group.device) for name, value in objective.start().items()}
        groups = [{"params": part} for part in (self.parameters, self.own) if part]
        optimiser = torch.optim.Adam(groups, lr=config.learning_rate, fused=True)
        self.trainee = Trainee(model, average, optimiser, objective, state)
        if group.size > 1:
            # After its first backward pass DDP orders its buckets anew, and with them its sums. Spend one
            # pass on that, so that a resumed run adds in the same order as one that was not interrupted.
            self._outcome(0, 0).loss.backward()
            optimiser.zero_grad()

    @property
    def averaged(self) -> SequentialModel:
        """The model with the averaged weights."""
        return cast("SequentialModel", self.trainee.average.module)

    def epoch(self, epoch: int) -> dict[str, float]:
        """Train one epoch (0-based); the means of its metrics over all images and ranks."""
        steps, device = self.batches.steps, self.group.device
        sums: dict[str, Tensor] = {}
        norms = torch.zeros((), device=device, dtype=torch.float64)
        spoiled = torch.full((), steps, device=device)  # the first step whose gradient is not finite
        began, rate = time.monotonic(), 0.0
        self.model.train()
        for index in range(steps):
            step = epoch * steps + index
            outcome = self._outcome(epoch, index)
            outcome.loss.backward()
            norm, own = (
                nn.utils.clip_grad_norm_(part, self.config.clip) for part in (self.parameters, self.own)
            )
            spoiled = spoiled.minimum(torch.where(norm.isfinite() & own.isfinite(), steps, index))
            rate = self._advance(step, spoiled < steps)
            for name, value in outcome.metrics.items():
                sums[name] = sums[name] + value.double() if name in sums else value.double()
            norms += norm
            self.trainee.state = self._shared(outcome.state)
            del outcome  # and with it what was prepared of the weights
            if device.type == "cpu" or (index + 1) % _LOOK_EVERY == 0 or index + 1 == steps:
                self._refuse(epoch, int(spoiled))
        seconds = time.monotonic() - began
        means = self.group.sum(torch.stack(list(sums.values()))) / (steps * self.group.size)
        return {
            **{f"train/{name}": mean for name, mean in zip(sums, means.tolist(), strict=True)},
            "learning_rate": rate,
            "grad_norm": float(norms) / steps,
            "images_per_second": steps * self.config.batch / seconds,
        }

    def _outcome(self, epoch: int, index: int) -> Outcome:
        """The objective of this rank's images of a step."""
        images, kind = self.batches.at(epoch, index), self.group.device.type
        batch = Batch(*images, self._noise(epoch, index))
        with torch.autocast(kind, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            return self.loss(batch, self.trainee.state)

    def _noise(self, epoch: int, index: int) -> Tensor:
        """This rank's noise, [T,kB,K]: drawn for the global batch, k samples an image, and then sliced."""
        samples, size, rank = self.trainee.objective.samples, self.group.size, self.group.rank
        generator = generator_at(self.group.device, self.config.seed, "noise", epoch, index)
        noise = self.model.noise(samples * self.config.batch, generator)
        if size == 1:
            return noise
        mine = noise.unflatten(1, (samples, size, self.config.batch // size))[:, :, rank]
        return mine.flatten(1, 2).contiguous()

    def _shared(self, state: State) -> State:
        """An objective's state, the same on every rank."""
        if self.group.size == 1:
            return state
        size = self.group.size
        return {
            name: self.group.sum(value) / size if value.is_floating_point() else value
            for name, value in state.items()
        }

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
        for group, times in zip(optimiser.param_groups, (1.0, self.trainee.objective.rate), strict=False):
            group["lr"] = rate * times
        # Adam's fused kernel looks at it on the device, so that the host need not wait for every step's norm.
        optimiser.found_inf = spoiled.float()  # type: ignore[attr-defined]
        optimiser.step()
        optimiser.zero_grad()
        self._decay = average_decay(step, self.config.ema)
        self.trainee.average.update_parameters(self.model)
        return rate

    @torch.no_grad()
    def _average(self, averaged: Any, present: Any, _: Any) -> None:
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, present, 1 - self._decay)
        else:  # a buffer that counts
            torch._foreach_copy_(averaged, present)
