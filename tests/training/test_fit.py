"""The loop in one process: what it minimises, measures, averages and refuses."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipelines.artifacts.history import OF_THE_MACHINE
from seqgen.core.errors import BadInput, NumericalError
from seqgen.data.images import ImageSet
from seqgen.data.settings import DataConfig
from seqgen.models import Bound, build
from seqgen.settings import ModelConfig, TrainConfig
from seqgen.training import EachEpoch, Progress, SaveFn, fit
from tests.training.child import DATA, MODEL, TRAIN, digits

PLAIN = MODEL.model_copy(update={"conditional": False})
STATIC = DataConfig(source="omniglot-strokes", size=28, split="30-20", binarise="static")


def settings(**changes: object) -> TrainConfig:
    return TRAIN.model_copy(update=changes)


class Rows:
    """An `on_epoch` that keeps what it was told."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.rows: list[Progress] = []
        self.stop_after = stop_after

    def __call__(self, progress: Progress, save: SaveFn) -> bool:
        self.rows.append(progress)
        return progress.epoch == self.stop_after

    def metric(self, name: str) -> list[float]:
        return [row.metrics[name] for row in self.rows]


class Probe(nn.Module):
    """A model whose free energy is its one weight times the inked pixels, and not finite where asked."""

    def __init__(self, broken: int = -1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.config, self.sizes, self.broken = PLAIN, None, broken

    def noise(self, batch: int, generator: torch.Generator) -> Tensor:
        return torch.randn(2, batch, 3, generator=generator)

    def compile_step(self, compiled: bool) -> None:
        assert not compiled

    def forward(self, x: Tensor, context: Tensor | None, noise: Tensor) -> Bound:
        ink = x.sum((1, 2, 3))
        energy = self.weight * torch.where(ink == self.broken, math.inf, ink)
        return Bound(-energy, torch.zeros(2, len(x)), noise, None)


def ink(count: int) -> ImageSet:
    """Image i has i + 1 inked pixels."""
    images = torch.zeros(count, 28 * 28, dtype=torch.uint8)
    for number in range(count):
        images[number, : number + 1] = 1
    unknown = torch.full((count,), -1)
    return ImageSet(images.view(count, 28, 28), 2, unknown, unknown, ())


def test_training_lowers_the_free_energy_and_the_held_out_bound():
    rows = Rows()
    torch.manual_seed(0)
    fit(build(MODEL, 28, 28), digits(60), digits(31), DATA, settings(epochs=12), callbacks=[EachEpoch(rows)])
    for name in ("train/free_energy", "valid/dynamic/free_energy"):
        assert rows.metric(name)[-1] < 0.8 * rows.metric(name)[0]
    first = rows.rows[0]
    assert (first.epoch, first.step, first.last) == (1, 5, False)
    assert (rows.rows[-1].epoch, rows.rows[-1].step, rows.rows[-1].last) == (12, 60, True)
    known = {"train/free_energy", "train/kl", "train/log_likelihood", "valid/dynamic/free_energy"}
    assert set(first.metrics) == {
        *known,
        "learning_rate",
        "grad_norm",
        "skipped_steps",
        *OF_THE_MACHINE,
    }
    parts = first.metrics["train/kl"] - first.metrics["train/log_likelihood"]
    assert first.metrics["train/free_energy"] == pytest.approx(parts)


@pytest.mark.parametrize("count", [1, 12, 31])
def test_every_held_out_image_counts_once(count: int):
    rows = Rows()
    probe = Probe()
    fit(probe, ink(12), ink(count), STATIC, settings(epochs=1, ema=0.0), callbacks=[EachEpoch(rows)])  # type: ignore[arg-type]
    expected = (count + 1) / 2 * float(probe.weight.detach())
    assert rows.metric("valid/static/free_energy") == pytest.approx([expected])


def test_the_held_out_bound_is_measured_every_so_often_and_at_the_end():
    rows = Rows()
    fit(Probe(), ink(12), ink(5), STATIC, settings(epochs=5, evaluate_every=2), callbacks=[EachEpoch(rows)])  # type: ignore[arg-type]
    measured = [row.epoch for row in rows.rows if "valid/static/free_energy" in row.metrics]
    assert measured == [2, 4, 5]


def test_true_stops_the_run():
    rows = Rows(stop_after=2)
    fit(build(PLAIN, 28, 28), digits(24), None, DATA, settings(epochs=9), callbacks=[EachEpoch(rows)])
    assert [row.epoch for row in rows.rows] == [1, 2]


def test_without_averaging_the_weights_themselves_come_back():
    model = build(PLAIN, 28, 28)
    average = fit(model, digits(24), None, DATA, settings(epochs=2, ema=0.0))
    for name, tensor in average.state_dict().items():
        assert tensor.equal(model.state_dict()[name])
    assert not any(parameter.requires_grad for parameter in average.parameters())


def test_the_average_follows_its_definition():
    probe, seen = Probe(), []

    def on_epoch(progress: Progress, save: SaveFn) -> None:
        seen.append(float(probe.weight.detach()))

    average = fit(probe, ink(12), None, STATIC, settings(epochs=30, ema=0.6), callbacks=[EachEpoch(on_epoch)])  # type: ignore[arg-type]
    expected = 1.0
    for step, weight in enumerate(seen):  # a step an epoch
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    assert float(average.weight) == pytest.approx(expected, rel=1e-5)


def test_the_kl_of_the_loss_is_weighted_and_that_of_the_metric_is_not():
    rows = {}
    for steps in (0, 10**6):
        rows[steps] = Rows()
        torch.manual_seed(0)
        model = build(PLAIN, 28, 28)
        fit(
            model,
            digits(60),
            None,
            DATA,
            settings(epochs=12, kl_warmup_steps=steps),
            callbacks=[EachEpoch(rows[steps])],
        )
    free = rows[10**6]
    assert free.metric("train/kl")[-1] > 2 * rows[0].metric("train/kl")[-1]
    parts = free.rows[-1].metrics
    assert parts["train/free_energy"] == pytest.approx(parts["train/kl"] - parts["train/log_likelihood"])


def test_a_gradient_that_is_not_finite_stops_before_the_step():
    probe = Probe(broken=5)
    with pytest.raises(NumericalError, match=r"epoch 1, step 0, seed 7; no step taken"):
        fit(probe, ink(12), None, STATIC, settings(max_skipped=0))  # type: ignore[arg-type]
    assert float(probe.weight.detach()) == 1.0


def test_an_epoch_without_a_step_has_no_means():
    rows = Rows()
    fit(Probe(broken=5), ink(12), None, STATIC, settings(epochs=1), callbacks=[EachEpoch(rows)])  # type: ignore[arg-type]
    assert rows.metric("skipped_steps") == [1]
    assert all(math.isnan(row.metrics["train/free_energy"]) for row in rows.rows)


def test_clipping_bounds_the_step_but_the_metric_is_the_norm_itself():
    rows = Rows()
    fit(Probe(), ink(12), None, STATIC, settings(epochs=1, clip=0.5), callbacks=[EachEpoch(rows)])  # type: ignore[arg-type]
    assert rows.metric("grad_norm") == pytest.approx([6.5])


@pytest.mark.parametrize("canvas", ["additive", "cgru"])
def test_bfloat16_trains_and_its_metrics_are_close_to_those_of_float32(canvas: str):
    bounds = []
    for precision in ("float32", "bfloat16"):
        rows = Rows()
        torch.manual_seed(0)
        model = build(PLAIN.model_copy(update={"canvas": canvas}), 28, 28)
        fit(
            model,
            digits(24),
            digits(24),
            DATA,
            settings(epochs=2, precision=precision),
            callbacks=[EachEpoch(rows)],
        )
        bounds.append(rows.metric("valid/dynamic/free_energy")[-1])
        assert model.step.transition.h0.dtype == torch.float32
    assert bounds[1] == pytest.approx(bounds[0], rel=0.01)
    assert bounds[1] != bounds[0]


class Told(Probe):
    """Its held-out bounds are these, one an epoch."""

    def __init__(self, bounds: list[float]) -> None:
        super().__init__()
        self.bounds = iter(bounds)

    def __deepcopy__(self, memo: dict) -> Told:  # the average has them, too
        copy = Told([])
        copy.bounds = self.bounds
        return copy

    def forward(self, x: Tensor, context: Tensor | None, noise: Tensor) -> Bound:
        bound = super().forward(x, context, noise)
        if self.training:
            return bound
        return bound._replace(log_likelihood=torch.full((len(x),), -next(self.bounds)))


def until_patience_ends(
    bounds: list[float], resume: Path | None = None, out: Path | None = None
) -> list[Progress]:
    """Two bounds in a row that are no better end it; what was told of."""
    rows: list[Progress] = []

    def on_epoch(progress: Progress, save: SaveFn) -> None:
        rows.append(progress)
        if out:
            save(out / str(progress.epoch))

    patient = settings(epochs=9, patience=2)
    fit(Told(bounds), ink(12), ink(5), STATIC, patient, resume=resume, callbacks=[EachEpoch(on_epoch)])  # type: ignore[arg-type]
    return rows


def test_bounds_that_are_no_better_end_a_run_also_one_that_was_interrupted(tmp_path: Path):
    rows = until_patience_ends([3.0, 2.0, 2.5, 1.9, math.nan, 1.9, 1.0], out=tmp_path)
    assert [(row.epoch, row.last) for row in rows] == [*((epoch, False) for epoch in range(1, 6)), (6, True)]
    assert [row.epoch for row in until_patience_ends([1.9, 1.0], tmp_path / "5")] == [6]
    assert until_patience_ends([1.0], tmp_path / "6") == []


def test_callbacks_are_all_told_and_one_may_end_the_run():
    first, second = Rows(stop_after=2), Rows()
    fit(Probe(), ink(12), None, STATIC, settings(), callbacks=[EachEpoch(first), EachEpoch(second)])  # type: ignore[arg-type]
    assert [row.epoch for row in first.rows] == [row.epoch for row in second.rows] == [1, 2]


@pytest.mark.slow
def test_a_compiled_run_gives_the_numbers_of_the_plain_one():
    bounds = []
    for compiled in (False, True):
        rows = Rows()
        torch.manual_seed(0)
        model = build(PLAIN, 28, 28)
        average = fit(
            model,
            digits(24),
            digits(30),
            DATA,
            settings(epochs=2, compile=compiled),
            callbacks=[EachEpoch(rows)],
        )
        bounds.append(rows.metric("valid/dynamic/free_energy"))
        assert average.state_dict().keys() == model.state_dict().keys()
    assert bounds[1] == pytest.approx(bounds[0], rel=1e-4)


def test_a_batch_larger_than_the_set_is_refused():
    with pytest.raises(BadInput, match=r"train\.batch=12 exceeds the 8 training images"):
        fit(build(PLAIN, 28, 28), digits(8), None, DATA, settings())


def test_more_epochs_asked_for_later_go_on_with_a_run(tmp_path: Path):
    rows = Rows()
    fit(
        build(PLAIN, 28, 28),
        digits(24),
        None,
        DATA,
        settings(),
        callbacks=[EachEpoch(lambda _, save: save(tmp_path))],
    )
    fit(
        build(PLAIN, 28, 28),
        digits(24),
        None,
        DATA,
        settings(epochs=7),
        resume=tmp_path,
        callbacks=[EachEpoch(rows)],
    )
    assert [row.epoch for row in rows.rows] == [6, 7]


def test_a_damaged_checkpoint_and_another_runs_checkpoint_are_refused(tmp_path: Path):
    def on_epoch(progress: Progress, save: SaveFn) -> None:
        save(tmp_path)

    fit(build(PLAIN, 28, 28), digits(24), None, DATA, settings(), callbacks=[EachEpoch(on_epoch)])
    other = ModelConfig(**{**PLAIN.model_dump(), "steps": 3})
    with pytest.raises(BadInput, match=r"model\.steps was 2, is 3"):
        fit(build(other, 28, 28), digits(24), None, DATA, settings(), resume=tmp_path)
    with pytest.raises(BadInput, match=r"train\.seed was 7, is 8"):
        fit(build(PLAIN, 28, 28), digits(24), None, DATA, settings(seed=8), resume=tmp_path)
    coarse = DATA.model_copy(update={"binarise": "threshold"})
    with pytest.raises(BadInput, match=r"data\.binarise was 'dynamic', is 'threshold'"):
        fit(build(PLAIN, 28, 28), digits(24), None, coarse, settings(), resume=tmp_path)
    with pytest.raises(BadInput, match=r"data was None, is 'x'"):
        fit(build(PLAIN, 28, 28), digits(24), None, DATA, settings(), resume=tmp_path, settings={"data": "x"})
