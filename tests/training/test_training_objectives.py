"""Objectives in the loop: importance-weighted and score-function ones, and one from outside."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipelines.artifacts.history import OF_THE_MACHINE
from seqgen.models import SequentialModel, build
from seqgen.models.latents import GaussianLatents
from seqgen.objectives import Batch, Objective, Outcome, State, log_importance_weights
from seqgen.objectives.iwae import ImportanceWeighted
from seqgen.objectives.score_function import ScoreFunction
from seqgen.settings import KindSettings, TrainConfig, register
from seqgen.settings.kinds import find
from seqgen.training import EachEpoch, Progress, SaveFn, fit
from tests.training.child import DATA, MODEL, TRAIN, digits

PLAIN = MODEL.model_copy(update={"conditional": False, "steps": 2, "latents": 3})
ONE_BIT = {"steps": 1, "latents": 1, "latent": "bernoulli"}


@register("objective", "test-halved")
class Halved(Objective):
    """Half of F, and of its own a number that is learned and one that is kept."""

    class Settings(KindSettings):
        """A setting of its own."""

        half: float = 0.5

    def __init__(self, settings: Settings, sizes: object) -> None:
        super().__init__(settings, sizes)
        self.number = nn.Parameter(torch.zeros(()))

    def start(self) -> State:
        return {"seen": torch.zeros(())}

    def forward(self, model: SequentialModel, batch: Batch, state: State) -> Outcome:
        energy = model(*batch).free_energy().mean()
        loss = self.settings.half * energy + (self.number - 3).square()
        return Outcome(loss, {"free_energy": energy.detach()}, {"seen": state["seen"] + len(batch.x)})


@register("latent", "test-blocked")
class Blocked(GaussianLatents):
    """Gaussian latents through which no gradient flows: the score function's own answer to the pathwise one."""

    def draw(self, parameters: Tensor, noise: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        z, q = super().draw(parameters, noise)
        return z.detach(), q

    def score(self, z: Tensor, q: tuple[Tensor, ...]) -> Tensor:
        return self.distribution(q).log_prob(z).sum(-1)


def objective(name: str, model: SequentialModel, **settings) -> Objective:
    kind = find("objective", name)
    return kind.load()(kind.settings(**settings), model.sizes)


def train(objective: str, model: SequentialModel, *, stop: int = 0, resume: Path | None = None, **changes):
    tree = TRAIN.given() | {"objective": objective, "epochs": 4} | changes
    rows: list[Progress] = []

    def on_epoch(progress: Progress, save: SaveFn) -> bool:
        rows.append(progress)
        if stop:
            save(changes.get("out", Path("checkpoint")))
        return progress.epoch == stop

    trained = fit(
        model,
        digits(60),
        digits(31),
        DATA,
        TrainConfig(**tree),
        resume=resume,
        callbacks=[EachEpoch(on_epoch)],
    )
    return trained, rows


def fresh(**changes) -> SequentialModel:
    torch.manual_seed(0)
    return build(type(PLAIN)(**PLAIN.given() | changes), 28, 28, 0.3)


def test_an_importance_weighted_objective_trains_on_k_samples_an_image():
    _, rows = train("iwae", fresh(), importance_samples=4)
    bounds = [row.metrics["train/free_energy"] for row in rows]
    assert bounds[-1] < 0.9 * bounds[0]
    assert 1 <= rows[-1].metrics["train/effective_samples"] <= 4
    model = fresh()
    x, noise = torch.rand(5, 1, 28, 28).round(), fresh().noise(20, torch.Generator().manual_seed(0))
    loss = objective("iwae", model, importance_samples=4)(model, Batch(x, None, noise), {}).loss
    each = torch.stack([log_importance_weights(model, x, None, part) for part in noise.split(5, 1)])
    torch.testing.assert_close(loss, -(each.logsumexp(0) - math.log(4)).mean())


def test_in_parts_every_image_has_its_own_samples():
    whole, rows = train("iwae", fresh(), importance_samples=4)
    parts, others = train("iwae", fresh(), importance_samples=4, accumulate=4)
    for row, other in zip(rows, others, strict=True):
        assert other.metrics["train/free_energy"] == pytest.approx(row.metrics["train/free_energy"], rel=2e-4)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=2e-4)


def test_an_objective_from_outside_trains_what_it_owns():
    _, rows = train("test-halved", fresh())
    bounds = [row.metrics["train/free_energy"] for row in rows]
    assert bounds[-1] < 0.9 * bounds[0]


@pytest.mark.parametrize("name", ["score-function", "iwae"])
def test_bernoulli_latents_train_and_resume_to_the_same_bits(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    whole, rows = train(name, fresh(latent="bernoulli"))
    bounds = [row.metrics["train/free_energy"] for row in rows]
    assert bounds[-1] < 0.9 * bounds[0]

    train(name, fresh(latent="bernoulli"), stop=2)
    again, rest = train(name, fresh(latent="bernoulli"), resume=Path("checkpoint"))
    assert [row.epoch for row in rest] == [3, 4]
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    for metric, value in rest[-1].metrics.items():
        if metric not in OF_THE_MACHINE:
            assert value == rows[-1].metrics[metric], metric


def exact(model: SequentialModel, x: Tensor, samples: int) -> Tensor:
    """E_q L_k of a model of one Bernoulli latent, as the sum over all z_1 ... z_k that it is."""
    both = [model.infer(x, None, torch.full((1, 1, 1), noise)) for noise in (0.0, 1.0)]
    q1 = both[0].posterior.probs.squeeze()
    log_w = [(one.likelihood.log_prob(x) + one.log_ratio.sum(0)).squeeze() for one in both]
    total = torch.zeros(())
    for choice in itertools.product((0, 1), repeat=samples):
        weight = math.prod(q1 if z == 0 else 1 - q1 for z in choice)
        total = total + weight * (torch.stack([log_w[z] for z in choice]).logsumexp(0) - math.log(samples))
    return total


@pytest.mark.parametrize(
    ("name", "settings", "samples"),
    [
        ("score-function", {"normalise": False}, 1),
        ("iwae", {"importance_samples": 2}, 2),
        ("iwae", {"importance_samples": 3}, 3),
    ],
)
def test_the_gradient_is_that_of_the_expectation(name, settings, samples):
    """On a model of one Bernoulli latent, where the expectation is a sum."""
    model = fresh(**ONE_BIT)
    x = torch.rand(1, 1, 28, 28).round()
    head = model.step.posterior.head.bias
    (expected,) = torch.autograd.grad(-exact(model, x, samples), head)
    chosen, many = objective(name, model, **settings), 20_000
    noise = model.noise(samples * many, torch.Generator().manual_seed(1))
    batch = Batch(x.expand(many, 1, 28, 28), None, noise)
    state = chosen(model, batch, chosen.start()).state
    (found,) = torch.autograd.grad(chosen(model, batch, state).loss, head)
    assert found.item() == pytest.approx(expected.item(), rel=0.05, abs=0.003)


def test_score_function_and_pathwise_gradients_agree_in_mean():
    model, blocked = fresh(), fresh(latent="test-blocked")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), blocked.parameters(), strict=True))
    x, many = torch.rand(1, 1, 28, 28).round(), 20_000
    batch = Batch(x.expand(many, 1, 28, 28), None, model.noise(many, torch.Generator().manual_seed(1)))

    def gradient(name: str, of: SequentialModel, **settings) -> Tensor:
        chosen = objective(name, of, **settings)
        loss = chosen(of, batch, chosen(of, batch, chosen.start()).state).loss
        return torch.cat(
            [g.flatten() for g in torch.autograd.grad(loss, list(of.step.posterior.parameters()))]
        )

    pathwise = gradient("pathwise", model)
    found = gradient("score-function", blocked, normalise=False)
    assert torch.cosine_similarity(pathwise, found, dim=0) > 0.97
    assert (found - pathwise).norm() < 0.25 * pathwise.norm()


def test_the_baseline_learns_what_is_to_come():
    """Of a model that stands still: what images of more or less ink cost."""
    model = fresh(latent="bernoulli").requires_grad_(False)
    chosen = objective("score-function", model)
    x = (torch.rand(64, 1, 28, 28) < torch.linspace(0.1, 0.9, 64).view(-1, 1, 1, 1)).float()
    energy = model(x, None, model.noise(64, torch.Generator().manual_seed(1))).free_energy()
    optimiser, state = torch.optim.Adam(chosen.parameters(), lr=0.01), chosen.start()
    for step in range(400):
        noise = model.noise(64, torch.Generator().manual_seed(step))
        outcome = chosen(model, Batch(x, None, noise), state)
        outcome.loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        state = outcome.state
    assert outcome.metrics["signal"] < 0.4 * energy.std()


def test_state_kept_by_an_objective_is_a_plain_mean_at_first():
    model = fresh(latent="bernoulli")
    chosen = objective("score-function", model)
    assert isinstance(chosen, ScoreFunction)
    x, noise = torch.rand(6, 1, 28, 28).round(), model.noise(6, torch.Generator().manual_seed(0))
    bound = model(x, None, noise)
    to_come = bound.kl.flip(0).cumsum(0).flip(0) - bound.log_likelihood
    left = to_come - chosen.baseline(x, bound.z)
    state = chosen(model, Batch(x, None, noise), chosen.start()).state
    torch.testing.assert_close(state["mean"], left.mean(1))
    torch.testing.assert_close(state["square"], left.square().mean(1))


def test_vimco_needs_two_samples():
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        TrainConfig(**TRAIN.given() | {"objective": "iwae", "importance_samples": 1})
    assert ImportanceWeighted(find("objective", "iwae").settings(), fresh().sizes).samples == 5


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
