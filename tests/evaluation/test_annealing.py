"""The sandwich: its weights' expectations against closed forms and quadrature; what it refuses."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from seqgen.core.errors import BadInput, NumericalError
from seqgen.evaluation import annealing
from seqgen.evaluation.bounds import HeldOut
from tests.quadrature import all_images, quadrature_log_p, tiny_model, where_z_matters

WINDOWS = {"attention": "gaussian", "read_size": 2, "write_size": 2}
MEMBERS = {
    "unconditional": WINDOWS,
    "learned prior, given a context": {**WINDOWS, "prior": "learned", "conditional": True},
}
# 99.9 % of the chi-square distribution with 15 degrees of freedom.
CHI_SQUARE_15 = 37.70


def images(model, count: int) -> HeldOut:
    """A set whose images are to be replaced by simulated ones."""
    x = all_images()[5:6].expand(count, 1, 2, 2).to(torch.uint8)
    return HeldOut(x, x if model.config.conditional else None, torch.arange(count))


def log_p_of(model, held_out: HeldOut) -> torch.Tensor:
    """log p(x) of every image by quadrature, float64; their contexts are alike."""
    context = None if held_out.context is None else held_out.context[:1].float()
    of_all = quadrature_log_p(model, all_images(), context)
    number = (held_out.x.flatten(1).long() * (2 ** torch.arange(4))).sum(1)
    return of_all[number].double()


def assert_mean_is(values: torch.Tensor, expected: float) -> None:
    assert abs(values.mean().item() - expected) < 4 * values.std().item() / len(values) ** 0.5


def test_the_schedule_is_a_stretched_sigmoid():
    betas = annealing.sigmoid_schedule(8)
    assert betas[0] == 0
    assert betas[4] == pytest.approx(0.5)
    assert betas[8] == 1
    gaps = [after - before for before, after in itertools.pairwise(betas)]
    assert gaps == pytest.approx(gaps[::-1])
    assert all(after > before for before, after in itertools.pairwise(gaps[:4]))
    first = [1 / (1 + math.exp(-logit)) for logit in (-4, -3, -2)]
    assert gaps[1] / gaps[0] == pytest.approx((first[2] - first[1]) / (first[1] - first[0]))


@pytest.fixture(scope="module")
def linear():
    """x = W z + 0.5 noise, z in R^2, x in R^3: log p(x) and p(z | x) in closed form."""
    weight = torch.tensor([[1.0, 0.5], [-0.7, 2.0], [0.3, -1.0]], dtype=torch.float64)
    x = torch.tensor([1.5, -2.0, 0.5], dtype=torch.float64)
    covariance = weight @ weight.T + 0.25 * torch.eye(3)
    log_p = MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance).log_prob(x).item()
    precision = weight.T @ weight / 0.25 + torch.eye(2)
    posterior = MultivariateNormal(
        torch.linalg.solve(precision, weight.T @ x / 0.25), precision_matrix=precision
    )

    def log_likelihood(noise: torch.Tensor) -> torch.Tensor:  # [1,C,2] -> [C]
        return Normal(noise[0] @ weight.T, 0.5).log_prob(x).sum(1)

    return log_likelihood, log_p, posterior


def both(linear, steps: int, chains: int):
    log_likelihood, _, posterior = linear
    generator = torch.Generator().manual_seed(0)
    betas = annealing.sigmoid_schedule(steps)

    def start(count: int) -> torch.Tensor:
        return torch.randn(1, count, 2, generator=generator, dtype=torch.float64)

    sizes = annealing.tune(log_likelihood, start(50), betas, 1, generator).expand(-1, chains)
    up = annealing.forward(log_likelihood, start(chains), betas, sizes, generator)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        exact = posterior.sample((1, chains))
    return up, annealing.reverse(log_likelihood, exact, betas, sizes, generator)


def test_the_weights_of_a_linear_gaussian_model_have_the_expectations_they_should(linear):
    """E[w] = p(x) forward, E[1 / w] = 1 / p(x) in reverse, however few the steps; the logs' means lie beside."""
    log_p = linear[1]
    up, down = both(linear, 12, 6_000)
    assert_mean_is((up.log_weight - log_p).exp(), 1)
    assert_mean_is((log_p - down.log_weight).exp(), 1)
    assert up.log_weight.mean() + 0.05 < log_p < down.log_weight.mean() - 0.05
    assert 0.3 < up.acceptance.mean() < 0.99


def test_more_steps_close_the_sandwich(linear):
    gaps = []
    for steps in (10, 40, 160):
        up, down = both(linear, steps, 300)
        assert up.log_weight.mean().item() < linear[1] < down.log_weight.mean().item()
        gaps.append(down.log_weight.mean().item() - up.log_weight.mean().item())
    assert gaps[2] < 0.7 * gaps[1] < 0.5 * gaps[0]
    assert gaps[2] < 0.7


def test_a_transition_leaves_its_distribution_invariant(linear):
    """Exact samples of the posterior stay such: their second moments after 20 transitions at b = 1."""
    log_likelihood, _, posterior = linear
    with torch.random.fork_rng():
        torch.manual_seed(2)
        exact = posterior.sample((1, 8_000))
    sizes, generator = torch.full((20, 8_000), 0.35), torch.Generator().manual_seed(0)
    point = annealing._at(log_likelihood, exact)
    accepted = 0.0
    for size in sizes:
        point, probability = annealing._transition(log_likelihood, point, 1.0, size, generator)
        accepted += probability.mean().item() / 20
    assert 0.2 < accepted < 0.95  # so that whether it is accepted matters
    moved = (point.noise[0] - posterior.mean) @ torch.linalg.cholesky(posterior.precision_matrix)
    for values in (moved[:, 0], moved[:, 1], moved[:, 0] * moved[:, 1]):
        assert_mean_is(values, 0)
    for values in moved.T:
        assert_mean_is(values.square(), 1)


@pytest.mark.parametrize("kinds", MEMBERS.values(), ids=MEMBERS.keys())
def test_the_sandwich_holds_log_p(kinds):
    """On simulated images, against quadrature: the expectations of both weights, and log p between the means."""
    model = where_z_matters(tiny_model(**kinds))
    simulated = annealing.simulate(model, images(model, 250), 0)
    log_p = log_p_of(model, simulated.held_out)
    found = annealing.sandwich(model, simulated.held_out, 6, 2, 0, exact=simulated.noise)
    assert_mean_is((found.lower - log_p).exp(), 1)
    assert_mean_is((log_p - found.upper).exp(), 1)
    assert found.lower.mean() < log_p.mean() < found.upper.mean()
    again = annealing.sandwich(model, simulated.held_out, 6, 2, 0)
    assert again.lower.equal(found.lower)
    assert again.upper is None


def test_many_steps_reach_log_p():
    model = where_z_matters(tiny_model(**WINDOWS))
    simulated = annealing.simulate(model, images(model, 40), 0)
    log_p = log_p_of(model, simulated.held_out)
    seen, gaps = [], []
    for steps in (3, 40):
        found = annealing.sandwich(model, simulated.held_out, steps, 4, 0, seen.append, exact=simulated.noise)
        gaps.append((found.upper - found.lower).mean().item())
    assert gaps[0] > 0.5
    assert gaps[1] < 0.2
    assert found.lower.mean().item() == pytest.approx(log_p.mean().item(), abs=0.2)
    assert found.upper.mean().item() == pytest.approx(log_p.mean().item(), abs=0.2)
    assert sum(seen) == 40 * sum(annealing.passes(steps, 4, simulated=True) for steps in (3, 40))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kinds", MEMBERS.values(), ids=MEMBERS.keys())
def test_samples_have_the_probabilities_of_the_model(kinds):
    """Pearson's chi-square of 6,000 images over the 16 there are; independent pixels of the same means fail it."""
    model = where_z_matters(tiny_model(**kinds))
    count = 6000
    held_out = annealing.simulate(model, images(model, count), 0).held_out
    number = (held_out.x.flatten(1).long() * (2 ** torch.arange(4))).sum(1)
    observed = torch.bincount(number, minlength=16).double()
    context = None if held_out.context is None else held_out.context[:1].float()
    expected = count * quadrature_log_p(model, all_images(), context).double().exp()
    assert ((observed - expected).square() / expected).sum() < CHI_SQUARE_15

    bits = all_images().flatten(1).double()
    ink = (expected / count) @ bits
    independent = count * (bits * ink + (1 - bits) * (1 - ink)).prod(1)
    assert ((observed - independent).square() / independent).sum() > CHI_SQUARE_15


def test_simulated_images_follow_the_seed_and_leave_the_global_generator_alone():
    model = tiny_model(**WINDOWS)
    before = torch.random.get_rng_state()
    first, again = (annealing.simulate(model, images(model, 50), 3) for _ in range(2))
    assert first.held_out.x.equal(again.held_out.x)
    assert first.noise.equal(again.noise)
    other = annealing.simulate(model, images(model, 50), 3, part=1)
    assert not other.held_out.x.equal(first.held_out.x)
    assert torch.random.get_rng_state().equal(before)


def test_simulated_grey_images_are_those_that_were_drawn():
    model = tiny_model(**WINDOWS, observation="logit-normal")
    simulated = annealing.simulate(model, HeldOut(torch.rand(5, 1, 2, 2), None, torch.arange(5)), 3)
    assert not ((simulated.held_out.x == 0) | (simulated.held_out.x == 1)).any()


def test_noise_that_is_not_normal_is_refused(monkeypatch):
    model = tiny_model(**WINDOWS)
    monkeypatch.setattr(type(model.step.latents), "normal_noise", False)
    with pytest.raises(
        BadInput, match=r"model\.step=sequential: .* not all of this model's noise is Gaussian"
    ):
        annealing.sandwich(model, images(model, 2), 3, 2, 0)


def test_a_model_that_is_not_finite_is_refused():
    model = tiny_model(**WINDOWS)
    with torch.no_grad():
        model.step.canvas0.fill_(math.nan)
    with pytest.raises(NumericalError, match="annealed bound of image 0 is nan"):
        annealing.sandwich(model, images(model, 2), 3, 2, 0)
