"""The training loop: the same steps, and on a CPU the same bits, whether or not it was interrupted."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
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
from seqgen.objectives import Batch, Objective, Outcome, State, mean_outcome
from seqgen.settings import TrainConfig, flatten
from seqgen.settings.kinds import find
from seqgen.training.callbacks import Callback, Callbacks, Progress, SaveFn, Skipped, Wish
from seqgen.training.checkpoint import Position, Trainee, load_checkpoint, save_checkpoint
from seqgen.training.looks import Looks
from seqgen.training.process_group import ProcessGroup
from seqgen.training.schedule import Schedule, average_decay, learning_rate
from seqgen.training.sums import EpochSums


def fit(
    model: SequentialModel,
    train: ImageSet | StreamedImages,
    valid: ImageSet | None,
    data: DataConfig,
    config: TrainConfig,
    *,
    group: ProcessGroup | None = None,
    resume: Path | None = None,
    callbacks: Sequence[Callback] = (),
    settings: Mapping[str, Any] | None = None,
    schedule: Schedule = learning_rate,
) -> SequentialModel:
    """Minimise the objective over `train` and return the averaged weights, the same on every rank.

    `callbacks` have their say between two steps and after each epoch, and are told of the end, whatever it is. `resume`
    is the directory of a checkpoint, made with the same settings but for the number of epochs; `settings` says what
    else must not have changed since (digests of data and code). `schedule` is the learning rate by step. The run ends
    early after `config.patience` held-out bounds in a row that were not better than the best. Of `config`, the caller
    sees to `workers`, the cadence and number of checkpoints, of what is drawn while it learns, and `max_failures`.

    Raises BadInput (batch and data do not fit, another run's checkpoint), OperationalError (damaged
    checkpoint), NumericalError where more gradients than `config.max_skipped` in a row were not finite, and
    StoppedEarly if a callback wished so.
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
    told = Callbacks(callbacks)
    try:
        model, train = model.to(group.device), train.to(group.device)
        run = _Run(model, train, data, config, group, told, bound_to, schedule)
        held_out = None
        if valid is not None:  # drawn on the CPU: the same whatever the device, the epoch and the ranks
            held_out = hold_out(valid.to("cpu"), data, conditional, config.seed, pairs=config.pairs)
        start = Position(0, 0)
        if resume is not None:
            start = load_checkpoint(resume, run.trainee, bound_to)
        run.step = start.step

        for epoch in range(start.epoch, config.epochs):
            if run.out_of_patience:  # which a run that was resumed may have been before
                break
            sums = run.epoch(epoch)
            done, last = epoch + 1, epoch + 1 == config.epochs
            bound = {}
            if held_out is not None and (last or done % config.evaluate_every == 0):
                bound = {data.held_out_metric: run.measure(held_out, epoch, sums)}
            metrics = {**run.means(sums), **bound, "seconds": sums.seconds}
            last = last or run.out_of_patience
            progress = Progress(done, run.step, metrics, last, run.averaged, held_out)
            save = run.saver(Position(done, run.step))
            if group.any(bool(told.epoch(progress, save))):
                break
        return run.averaged
    finally:
        told.end()


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
        callbacks: Callbacks,
        bound_to: Mapping[str, Any],
        schedule: Schedule,
    ) -> None:
        self.config, self.group, self.model = config, group, model
        self.callbacks, self.bound_to, self.schedule = callbacks, bound_to, schedule
        self.step = self.in_a_row = 0  # steps done; the last of them that were not taken
        self.looks = Looks(group)
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
            self._outcome(0, 0)
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
        steps = self.batches.steps
        sums = EpochSums.unpacked(self.trainee.sums, steps, self.group)
        self.trainee.sums = {}
        first = start = self.step - epoch * steps
        self.model.train()
        self.looks.begin(first)
        for index in range(first, steps):
            look = self.looks.at(index) or index + 1 == steps
            if look and index > first:
                self._ask(epoch, sums)
            outcome = self._outcome(epoch, index)
            norm, own = (
                nn.utils.clip_grad_norm_(part, self.config.clip) for part in (self.parameters, self.own)
            )
            bad = ~(norm.isfinite() & own.isfinite())
            self._advance(self.step, bad)
            sums.add(index, outcome.metrics, norm, bad)
            self.callbacks.step(outcome.metrics)
            state = self._shared(outcome.state)
            self.trainee.state = {
                name: torch.where(bad, self.trainee.state[name], value) for name, value in state.items()
            }
            self.step += 1
            if look:
                self._tell_skipped(epoch, sums, start, index + 1)
                self.looks.done(index)
                start = index + 1
        if first < steps:
            sums.training_seconds = sums.seconds
        self._ask(epoch, sums)
        return sums

    def means(self, sums: EpochSums) -> dict[str, float]:
        """The metrics of an epoch over all images and ranks, of the steps that were taken."""
        return {
            **sums.means(self.group),
            "learning_rate": self.schedule(self.step - 1, self.total, self.config),
            "images_per_second": self.batches.steps * self.config.batch / sums.training_seconds,
            "peak_memory_gib": self.group.peak_memory() / 2**30,
        }

    def measure(self, held_out: HeldOut, epoch: int, sums: EpochSums) -> float:
        """The held-out bound (nats per image) of the averaged weights, unless a stop comes in between."""
        bound = mean_free_energy(
            self.averaged,
            held_out,
            self.config.seed,
            self.group,
            stopped=lambda: self.callbacks.wish() is Wish.STOP,
        )
        self._ask(epoch, sums)
        trainee = self.trainee
        trainee.not_better = 0 if bound < trainee.best else trainee.not_better + 1
        trainee.best = bound if bound < trainee.best else trainee.best
        return bound

    @property
    def out_of_patience(self) -> bool:
        """Whether so many held-out bounds in a row were not better that the run ends."""
        return 0 < self.config.patience <= self.trainee.not_better

    def _ask(self, epoch: int, sums: EpochSums) -> None:
        """Save, or save and stop, if any rank's callbacks wish so."""
        wish = Wish(self.group.most(self.callbacks.wish()))
        if wish is Wish.GO_ON:
            return
        self.trainee.sums = sums.packed(self.group)
        position = Position(epoch, self.step)
        self.callbacks.save(position, self.saver(position))
        self.trainee.sums = {}
        if wish is Wish.STOP:
            raise StoppedEarly(f"stopped in epoch {epoch + 1}, after step {self.step}")

    def _outcome(self, epoch: int, index: int) -> Outcome:
        """The objective of this rank's images of a step, whose gradient is added to the parameters'.

        In `accumulate` parts, one after another, of which it is the mean.
        """
        count = self.config.accumulate
        outcomes = []
        for number, part in enumerate(self._parts(epoch, index), 1):
            with self._summed_by_ranks(number == count):
                with torch.autocast(
                    self.group.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"
                ):
                    outcome = self.loss(part, self.trainee.state)
                (outcome.loss / count).backward()
            outcomes.append(outcome._replace(loss=outcome.loss.detach()))
        return mean_outcome(outcomes)

    def _parts(self, epoch: int, index: int) -> Iterator[Batch]:
        """This rank's batch of a step, in parts of equally many images."""
        batch, count = (
            Batch(*self.batches.at(epoch, index), self._noise(epoch, index)),
            self.config.accumulate,
        )
        if count == 1:
            yield batch
            return
        size, samples = len(batch.x) // count, self.trainee.objective.samples
        noise = batch.noise.unflatten(1, (samples, count, size))
        for part in range(count):
            mine = slice(part * size, (part + 1) * size)
            context = None if batch.context is None else batch.context[mine]
            yield Batch(batch.x[mine], context, noise[:, :, part].flatten(1, 2).contiguous())

    def _summed_by_ranks(self, now: bool) -> contextlib.AbstractContextManager[None]:
        """DDP averages the gradients over the ranks once a step: with its last part."""
        if now or not isinstance(self.loss, nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext()
        return self.loss.no_sync()

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
        """Tell the callbacks of the steps `start` to `end` of the epoch that were not taken, the same on all ranks.

        Raises NumericalError if there were too many in a row.
        """
        for index, bad in enumerate(sums.bad[start:end].tolist(), start):
            self.in_a_row = self.in_a_row + 1 if bad else 0
            if not bad:
                continue
            step, seed = epoch * self.batches.steps + index, self.config.seed
            self.callbacks.skipped(Skipped(epoch + 1, step, seed, self.batches.keys(epoch, index)))
            if self.in_a_row > self.config.max_skipped:
                raise NumericalError(
                    f"the gradient is not finite at epoch {epoch + 1}, step {step}, seed {seed}; no step taken, and "
                    f"{self.in_a_row} in a row are more than train.max_skipped={self.config.max_skipped}. "
                    f"Lower train.learning_rate={self.config.learning_rate:g}"
                )

    def _advance(self, step: int, bad: Tensor) -> None:
        """Step the optimiser, unless the gradient is `bad`; the average is of the weights after every step."""
        optimiser = self.trainee.optimiser
        rate = self.schedule(step, self.total, self.config)
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
