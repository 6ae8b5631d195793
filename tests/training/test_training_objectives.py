"""Objectives from outside fit into the loop: an importance-weighted one, and a score-function one with a baseline."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

from seqgen.models import SequentialModel, build
from seqgen.models.contracts import Latents
from seqgen.objectives import Batch, Objective, Outcome, State, log_importance_weights
from seqgen.settings import KindSettings, TrainConfig, register
from seqgen.training import Progress, SaveFn, fit
from tests.training.child import DATA, MODEL, TRAIN, digits

PLAIN = MODEL.model_copy(update={"conditional": False, "steps": 2, "latents": 3})


@register("objective", "test-iwae")
class ImportanceWeighted(Objective):
    """-L_k of Burda et al. 2015."""

    class Settings(KindSettings):
        """k."""

        importance_samples: int = Field(default=3, ge=1)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.samples = settings.importance_samples

    def forward(self, model: SequentialModel, batch: Batch, state: State) -> Outcome:
        weights = log_importance_weights(model, *batch).view(self.samples, -1)
        bound = (math.log(self.samples) - weights.logsumexp(0)).mean()
        return Outcome(bound, {"free_energy": bound.detach()}, state)


@register("latent", "test-bernoulli")
class BernoulliLatents(Latents):
    """z in {0,1}^K, drawn by a threshold: no gradient flows through z, only through log q."""

    def __init__(self, settings: KindSettings, sizes) -> None:
        super().__init__(settings, sizes)
        self.parameters_of_q = self.size = sizes.latents

    def noise(self, steps: int, batch: int, generator: torch.Generator) -> Tensor:
        return torch.rand(steps, batch, self.size, generator=generator)

    def draw(self, parameters: Tensor, noise: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return (noise < parameters.sigmoid()).float(), (parameters,)

    def draw_from_prior(self, p: tuple[Tensor, ...], noise: Tensor) -> Tensor:
        return (noise < 0.5).float()

    def log_ratio(self, z: Tensor, q: tuple[Tensor, ...], p: tuple[Tensor, ...]) -> Tensor:
        return -math.log(2) * self.size - self.distribution(q).log_prob(z).sum(-1)

    def kl(self, q: tuple[Tensor, ...], p: tuple[Tensor, ...]) -> Tensor:
        return math.log(2) * self.size - self.distribution(q).entropy().sum(-1)

    def distribution(self, q: tuple[Tensor, ...]) -> torch.distributions.Bernoulli:
        return torch.distributions.Bernoulli(logits=q[0], validate_args=False)


@register("objective", "test-nvil")
class ScoreFunction(Objective):
    """NVIL (Mnih & Gregor 2014): a learned baseline of x, and a running mean that is kept."""

    def __init__(self, settings: KindSettings) -> None:
        super().__init__(settings)
        self.baseline = nn.Linear(28 * 28, 1)

    def start(self) -> State:
        return {"mean": torch.zeros(())}

    def forward(self, model: SequentialModel, batch: Batch, state: State) -> Outcome:
        inference = model.infer(*batch)
        log_q = inference.posterior.log_prob(inference.z).sum((0, 2))
        elbo = inference.likelihood.log_prob(batch.x) + inference.log_ratio.sum(0)
        signal = elbo.detach() - state["mean"] - self.baseline(batch.x.flatten(1)).squeeze(1)
        loss = -(elbo + signal.detach() * log_q).mean() + signal.square().mean()
        mean = 0.9 * state["mean"] + 0.1 * elbo.detach().mean()
        return Outcome(
            loss,
            {"free_energy": -elbo.detach().mean(), "signal": signal.detach().abs().mean()},
            {"mean": mean},
        )


def train(objective: str, model: SequentialModel, *, stop: int = 0, resume: Path | None = None, **changes):
    tree = TRAIN.given() | {"objective": objective, "epochs": 4} | changes
    rows: list[Progress] = []

    def on_epoch(progress: Progress, save: SaveFn) -> bool:
        rows.append(progress)
        if stop:
            save(changes.get("out", Path("checkpoint")))
        return progress.epoch == stop

    trained = fit(model, digits(60), digits(31), DATA, TrainConfig(**tree), resume=resume, on_epoch=on_epoch)
    return trained, rows


def fresh(**changes) -> SequentialModel:
    torch.manual_seed(0)
    return build(type(PLAIN)(**PLAIN.given() | changes), 28, 28, 0.3)


def test_an_importance_weighted_objective_trains_on_k_samples_an_image():
    _, rows = train("test-iwae", fresh(), importance_samples=4)
    bounds = [row.metrics["train/free_energy"] for row in rows]
    assert bounds[-1] < 0.9 * bounds[0]
    model = fresh()
    x, noise = torch.rand(5, 1, 28, 28).round(), fresh().noise(20, torch.Generator().manual_seed(0))
    objective = ImportanceWeighted(ImportanceWeighted.Settings(importance_samples=4))
    loss = objective(model, Batch(x, None, noise), {}).loss
    each = torch.stack([log_importance_weights(model, x, None, part) for part in noise.split(5, 1)])
    torch.testing.assert_close(loss, -(each.logsumexp(0) - math.log(4)).mean())


def test_a_score_function_objective_trains_with_its_baseline_and_resumes_to_the_same_bits(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    kind = {"latent": "test-bernoulli"}
    whole, rows = train("test-nvil", fresh(**kind))
    bounds = [row.metrics["train/free_energy"] for row in rows]
    assert bounds[-1] < 0.9 * bounds[0]
    assert "train/signal" in rows[0].metrics

    train("test-nvil", fresh(**kind), stop=2)
    again, rest = train("test-nvil", fresh(**kind), resume=Path("checkpoint"))
    assert [row.epoch for row in rest] == [3, 4]
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    for name, value in rest[-1].metrics.items():
        if name not in ("seconds", "images_per_second"):
            assert value == rows[-1].metrics[name], name


def test_the_score_function_gradient_is_that_of_the_expectation():
    """On a model of one Bernoulli latent, where E_q is a sum of two terms."""
    config = {"steps": 1, "latents": 1, "latent": "test-bernoulli"}
    model = fresh(**config)
    x = torch.rand(1, 1, 28, 28).round()
    # exactly: sum_z q(z) (log p(x,z) - log q(z)), both z given by noise below and above every q
    values = [log for noise in (0.0, 1.0) for log in [model.infer(x, None, torch.full((1, 1, 1), noise))]]
    q1 = values[0].posterior.probs.squeeze()
    elbo = sum(
        q * (inference.likelihood.log_prob(x) + inference.log_ratio.sum(0)).squeeze()
        for q, inference in zip((q1, 1 - q1), values, strict=True)
    )
    head = model.step.posterior.head.bias
    (expected,) = torch.autograd.grad(-elbo, head)
    objective, many = ScoreFunction(KindSettings()), 20_000
    with torch.no_grad():
        objective.baseline.weight.zero_()
        objective.baseline.bias.fill_(float(elbo))
    noise = model.noise(many, torch.Generator().manual_seed(1))
    batch = Batch(x.expand(many, 1, 28, 28), None, noise)
    (found,) = torch.autograd.grad(objective(model, batch, objective.start()).loss, head)
    assert found.item() == pytest.approx(expected.item(), rel=0.1, abs=0.01)


def test_the_buffers_of_a_model_are_averaged_too():
    model = fresh()
    model.register_buffer("seen", torch.zeros(2))
    model.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def look(module: nn.Module, _: object) -> None:
        if module.training:
            module.seen.add_(1.0)
            module.count.add_(1)

    model.register_forward_pre_hook(look)
    trained, _ = train("pathwise", model, ema=0.5)
    steps = 4 * 5
    assert trained.count == model.count == steps
    assert 0 < trained.seen[0] < model.seen[0]
