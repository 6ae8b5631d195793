"""The training loop: the same steps, and on a CPU the same bits, whether or not it was interrupted."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from seqgen import native
from seqgen.core.errors import NumericalError, StoppedEarly
from seqgen.data.batches import TrainingBatches, generator_at
from seqgen.data.images import ImageSet
from seqgen.data.settings import DataConfig
from seqgen.data.streamed import StreamedImages
from seqgen.evaluation.bounds import HeldOut, hold_out, mean_free_energy
from seqgen.models import SequentialModel
from seqgen.objectives import Batch, Objective, Outcome, State
from seqgen.settings import TrainConfig, flatten
from seqgen.settings.kinds import find
from seqgen.training.checkpoint import Position, Trainee, load_checkpoint, save_checkpoint
from seqgen.training.process_group import ProcessGroup
from seqgen.training.schedule import average_decay, learning_rate
from seqgen.training.sums import EpochSums
from seqgen.training.watch import SaveFn, Skipped, Watch, Wish


@dataclass(frozen=True)
class Progress:
    """A run after an epoch: completed epochs and optimiser steps, and the metrics (nats per image)."""

    epoch: int
    step: int
    metrics: dict[str, float]
    last: bool


OnEpoch = Callable[[Progress, SaveFn], bool | None]

# Steps between looks at a GPU, for a gradient that is not finite, and at what the watch wishes.
_LOOK_EVERY = 100


def fit(
    model: SequentialModel,
    train: ImageSet | StreamedImages,
    valid: ImageSet | None,
    data: DataConfig,
    config: TrainConfig,
    *,
    group: ProcessGroup | None = None,
    resume: Path | None = None,
    on_epoch: OnEpoch | None = None,
    watch: Watch | None = None,
    settings: Mapping[str, Any] | None = None,
) -> SequentialModel:
    """Minimise the objective over `train` and return the averaged weights, the same on every rank.

    `on_epoch(progress, save)` is called on every rank after each epoch: `save(directory)` writes a complete
    checkpoint (one rank is enough), and True from any rank stops the run. `watch` has its say between two steps.
    `resume` is the directory of a checkpoint, made with the same settings but for the number of epochs; `settings`
    says what else must not have changed since (digests of data and code).
    Of `config`, the caller sees to `workers`, the cadence and number of checkpoints and `max_failures`.

    Raises BadInput (batch and data do not fit, another run's checkpoint), OperationalError (damaged
    checkpoint), NumericalError where more gradients than `config.max_skipped` in a row were not finite, and
    StoppedEarly if the watch wished so.
    """
    group = group or ProcessGroup()
    conditional = model.config.conditional
    bound_to = {
        **flatten(
            {
                "data": data.model_dump(mode="json"),
                "model": model.config.model_dump(mode="json"),
                "train": config.kept(),
            }
        ),
        **(settings or {}),
    }
    model, train = model.to(group.device), train.to(group.device)
    run = _Run(model, train, data, config, group, watch or Watch(), bound_to)
    held_out = None
    if valid is not None:  # drawn on the CPU: the same whatever the device, the epoch and the ranks
        held_out = hold_out(valid.to("cpu"), data, conditional, config.seed, pairs=config.pairs)
    start = Position(0, 0)
    if resume is not None:
        start = load_checkpoint(resume, run.trainee, bound_to)
    run.step = start.step

    for epoch in range(start.epoch, config.epochs):
        sums = run.epoch(epoch)
        done, last = epoch + 1, epoch + 1 == config.epochs
        bound = {}
        if held_out is not None and (last or done % config.evaluate_every == 0):
            bound = {data.held_out_metric: run.measure(held_out, epoch, sums)}
        metrics = {**run.means(sums), **bound, "seconds": sums.seconds}
        if on_epoch is None:
            continue
        save = run.saver(Position(done, run.step))
        if group.any(bool(on_epoch(Progress(done, run.step, metrics, last), save))):
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
        train: ImageSet | StreamedImages,
        data: DataConfig,
        config: TrainConfig,
        group: ProcessGroup,
        watch: Watch,
        bound_to: Mapping[str, Any],
    ) -> None:
        self.config, self.group, self.model = config, group, model
        self.watch, self.bound_to = watch, bound_to
        self.step = self.in_a_row = 0  # steps done; the last of them that were not taken
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

    def saver(self, position: Position) -> SaveFn:
        """What writes a checkpoint of `position` into a directory."""
        return functools.partial(
            save_checkpoint, trainee=self.trainee, position=position, settings=self.bound_to
        )

    def epoch(self, epoch: int) -> EpochSums:
        """Train an epoch (0-based), or the rest of one that was interrupted; what it sums up to on this rank."""
        steps, device = self.batches.steps, self.group.device
        sums = EpochSums.unpacked(self.trainee.sums, steps, self.group)
        self.trainee.sums = {}
        first = start = self.step - epoch * steps
        self.model.train()
        for index in range(first, steps):
            looks = device.type == "cpu" or (index + 1) % _LOOK_EVERY == 0 or index + 1 == steps
            if looks and index > first:
                self._ask(epoch, sums)
            outcome = self._outcome(epoch, index)
            outcome.loss.backward()
            norm, own = (
                nn.utils.clip_grad_norm_(part, self.config.clip) for part in (self.parameters, self.own)
            )
            bad = ~(norm.isfinite() & own.isfinite())
            self._advance(self.step, bad)
            sums.add(index, outcome.metrics, norm, bad)
            state = self._shared(outcome.state)
            self.trainee.state = {
                name: torch.where(bad, self.trainee.state[name], value) for name, value in state.items()
            }
            del outcome  # and with it what was prepared of the weights
            self.step += 1
            if looks:
                self._tell_skipped(epoch, sums, start, index + 1)
                start = index + 1
        if first < steps:
            sums.training_seconds = sums.seconds
        self._ask(epoch, sums)
        return sums

    def means(self, sums: EpochSums) -> dict[str, float]:
        """The metrics of an epoch over all images and ranks, of the steps that were taken."""
        return {
            **sums.means(self.group),
            "learning_rate": learning_rate(self.step - 1, self.total, self.config),
            "images_per_second": self.batches.steps * self.config.batch / sums.training_seconds,
        }

    def measure(self, held_out: HeldOut, epoch: int, sums: EpochSums) -> float:
        """The held-out bound (nats per image) of the averaged weights, unless a stop comes in between."""
        bound = mean_free_energy(
            self.averaged,
            held_out,
            self.config.seed,
            self.group,
            stopped=lambda: self.watch.wish() is Wish.STOP,
        )
        self._ask(epoch, sums)
        return bound

    def _ask(self, epoch: int, sums: EpochSums) -> None:
        """Save, or save and stop, if any rank's watch wishes so."""
        wish = Wish(self.group.most(self.watch.wish()))
        if wish is Wish.GO_ON:
            return
        self.trainee.sums = sums.packed(self.group)
        position = Position(epoch, self.step)
        self.watch.save(position, self.saver(position))
        self.trainee.sums = {}
        if wish is Wish.STOP:
            raise StoppedEarly(f"stopped in epoch {epoch + 1}, after step {self.step}")

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

    def _tell_skipped(self, epoch: int, sums: EpochSums, start: int, end: int) -> None:
        """Tell the watch of the steps `start` to `end` of the epoch that were not taken; it is the same on all ranks.

        Raises NumericalError if there were too many in a row.
        """
        for index, bad in enumerate(sums.bad[start:end].tolist(), start):
            self.in_a_row = self.in_a_row + 1 if bad else 0
            if not bad:
                continue
            step, seed = epoch * self.batches.steps + index, self.config.seed
            self.watch.skipped(Skipped(epoch + 1, step, seed, self.batches.keys(epoch, index)))
            if self.in_a_row > self.config.max_skipped:
                raise NumericalError(
                    f"the gradient is not finite at epoch {epoch + 1}, step {step}, seed {seed}; no step taken, and "
                    f"{self.in_a_row} in a row are more than train.max_skipped={self.config.max_skipped}. "
                    f"Lower train.learning_rate={self.config.learning_rate:g}"
                )

    def _advance(self, step: int, bad: Tensor) -> None:
        """Step the optimiser, unless the gradient is `bad`; the average is of the weights after every step."""
        optimiser = self.trainee.optimiser
        rate = learning_rate(step, self.total, self.config)
        for group, times in zip(optimiser.param_groups, (1.0, self.trainee.objective.rate), strict=False):
            group["lr"] = rate * times
        # Adam's fused kernel looks at it on the device, so that the host need not wait for every step's norm.
        optimiser.found_inf = bad.float()  # type: ignore[attr-defined]
        optimiser.step()
        optimiser.zero_grad()
        self._decay = average_decay(step, self.config.ema)
        self.trainee.average.update_parameters(self.model)

    @torch.no_grad()
    def _average(self, averaged: Any, present: Any, _: Any) -> None:
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, present, 1 - self._decay)
        else:  # a buffer that counts
            torch._foreach_copy_(averaged, present)
