"""The chain and its score against enumeration of all completions of images of 2 x 2 pixels."""

from __future__ import annotations

import itertools
import math
import threading

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal

from seqgen.core.errors import BadInput
from seqgen.evaluation import imputation
from seqgen.evaluation.bounds import HeldOut
from seqgen.evaluation.imputation import Effort
from seqgen.models import build
from seqgen.models.model import Inference
from seqgen.settings import ModelConfig

MISSING = torch.tensor([[[True, False], [True, True]]])
OBSERVED = torch.tensor([[[0.0, 1], [0, 0]]])
# All images with the observed pixel, [8,1,2,2].
COMPLETIONS = torch.stack(
    [OBSERVED.masked_scatter(MISSING, torch.tensor(bits)) for bits in itertools.product((0.0, 1.0), repeat=3)]
)


class Mixture:
    """Bernoulli images of one of three kinds: q(z | x) is the posterior, by Bayes' rule."""

    shares = torch.tensor([0.5, 0.3, 0.2])
    ink = torch.tensor([[0.9, 0.2, 0.7, 0.1], [0.1, 0.6, 0.3, 0.8], [0.5, 0.9, 0.9, 0.9]])

    def noise(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(1, batch, 1, generator=generator)

    def log_joint(self, x: torch.Tensor) -> torch.Tensor:
        """log p(z) + log p(x | z), [B,3]."""
        pixels = x.flatten(1)[:, None]
        return self.shares.log() + (pixels * self.ink.log() + (1 - pixels) * (1 - self.ink).log()).sum(2)

    def infer(self, x, context, noise) -> Inference:
        below = self.log_joint(x).softmax(1).cumsum(1)
        kind = (Normal(0, 1).cdf(noise[0]) > below).sum(1).clamp(max=2)
        likelihood = Independent(Bernoulli(self.ink[kind].view(-1, 1, 2, 2)), 3)
        return Inference(kind, None, None, None, likelihood)

    def conditional(self) -> torch.Tensor:
        """p(x_missing | x_observed) of COMPLETIONS, [8]."""
        return self.log_joint(COMPLETIONS).logsumexp(1).softmax(0)


@pytest.fixture(scope="module")
def tiny():
    """A model of two latents, K = 1 and T = 2, of which q is not the posterior."""
    torch.manual_seed(3)
    model = build(ModelConfig(steps=2, latents=1, hidden=6, attention="full"), 2, 2, 0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return model.eval()


@torch.no_grad()
def stationary(model) -> torch.Tensor:
    """Where the chain settles, [8]: the eigenvector of its transition matrix, each row by Gauss-Hermite quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(40)
    noise = torch.tensor(np.stack(np.meshgrid(points, points)).reshape(2, -1, 1), dtype=torch.float32)
    weight = torch.tensor(np.outer(weights, weights).ravel() / (2 * math.pi))
    rows = []
    for x in COMPLETIONS:
        means = model.infer(x[None], None, noise).likelihood.mean.double()
        pixels = torch.where(COMPLETIONS.bool()[:, None], means, 1 - means)  # [8,nodes,1,2,2]
        rows.append(pixels.where(MISSING, pixels.new_ones(())).flatten(2).prod(2) @ weight)
    matrix = torch.stack(rows)
    torch.testing.assert_close(matrix.sum(1), torch.ones(8).double(), atol=1e-5, rtol=0)
    return torch.linalg.matrix_power(matrix, 200)[0]


def frequencies(model, chains: int = 20_000, steps: int = 25) -> torch.Tensor:
    """How often the chain is at each of COMPLETIONS after so many steps, [8]."""
    start = torch.where(MISSING, torch.tensor(0.5), OBSERVED).expand(chains, 1, 2, 2)
    last = imputation.impute(model, start, MISSING, steps, generator()).states[-1]
    same = (last[:, None] == COMPLETIONS).flatten(2).all(2)
    assert same.any(1).all(), "an observed pixel was changed"
    return same.double().mean(0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def nll(model, x, effort: Effort, seed: int = 0) -> torch.Tensor:
    start = torch.where(MISSING, torch.tensor(0.5), x)
    return imputation.score(model, x, start, MISSING, generator(seed), effort).joint


def assert_frequencies(found: torch.Tensor, expected: torch.Tensor, count: int = 20_000) -> None:
    error = (expected * (1 - expected) / count).sqrt()
    assert ((found - expected).abs() < 4 * error).all(), (found, expected)


def test_with_the_posterior_the_chain_settles_at_the_conditional():
    assert_frequencies(frequencies(Mixture()), Mixture().conditional().double())


def test_with_another_q_it_settles_where_its_transition_matrix_does(tiny):
    expected = stationary(tiny)
    assert (expected.max() / expected.min()) > 3, "a chain that settles anywhere would do"
    assert_frequencies(frequencies(tiny), expected)


def test_the_mean_image_is_that_of_the_chains_last_half():
    found = imputation.impute(Mixture(), COMPLETIONS[:1].expand(4000, 1, 2, 2), MISSING, 8, generator())
    assert len(found.states) == 9
    marginal = (Mixture().conditional()[:, None, None, None] * COMPLETIONS).sum(0)
    torch.testing.assert_close(found.mean.mean(0), marginal, atol=0.02, rtol=0)
    assert found.mean[:, 0, 0, 1].eq(1).all(), "an observed pixel was changed"


@pytest.mark.parametrize("effort", [Effort(3, 15, 1, 1), Effort(3, 15, 2, 1), Effort(4, 15, 3, 2)])
def test_with_the_posterior_the_score_is_unbiased_in_probability_and_above_in_nats(effort):
    exact = Mixture().conditional().double()
    for number in (0, 5):
        found = nll(Mixture(), COMPLETIONS[number : number + 1].repeat(6000, 1, 1, 1), effort)
        p = (-found).exp()
        assert abs(p.mean() - exact[number]) < 4 * p.std() / 6000**0.5
        assert found.mean() > -exact[number].log()


def test_many_chains_reach_the_conditional_and_its_marginals():
    x, exact = COMPLETIONS[5:6], Mixture().conditional().double()
    start = torch.where(MISSING, torch.tensor(0.5), x)
    found = imputation.score(Mixture(), x, start, MISSING, generator(), Effort(100_000, 15, 3, 1))
    assert found.joint.item() == pytest.approx(-exact[5].log().item(), abs=0.02)
    ink = (exact[:, None, None, None] * COMPLETIONS).sum(0)
    pixels = torch.where(x[0].bool(), ink, 1 - ink).log()
    assert found.marginals.item() == pytest.approx(-pixels[MISSING].sum().item(), abs=0.02)


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_whatever_q_is_the_prediction_sums_to_one_over_all_completions(tiny, parts):
    effort = Effort(3, 4, parts, 2)
    total = sum(nll(tiny, x[None], effort).neg().exp().item() for x in COMPLETIONS)
    assert total == pytest.approx(1, abs=1e-5)


def test_one_chain_predicts_in_the_mean_what_it_settles_at(tiny):
    expected = stationary(tiny)
    for number in (0, 6):
        p = (-nll(tiny, COMPLETIONS[number : number + 1].repeat(20_000, 1, 1, 1), Effort(1, 25, 1, 1))).exp()
        assert abs(p.mean() - expected[number]) < 4 * p.std() / 20_000**0.5


def test_a_sets_scores_are_finite_in_order_and_the_seeds(tiny, monkeypatch):
    monkeypatch.setattr(imputation, "_PAIRS", 9)
    held_out = HeldOut(COMPLETIONS.byte(), None, torch.arange(8))
    means = imputation.pixel_means(held_out.x)
    effort, seen = Effort(3, 4, 2, 1), []
    found = imputation.scores(tiny, held_out, means, MISSING, 1, effort, seen.append)
    again = imputation.scores(tiny, held_out, means, MISSING, 1, effort)
    assert found.joint.equal(again.joint)
    assert not found.joint.equal(imputation.scores(tiny, held_out, means, MISSING, 2, effort).joint)
    assert (found.joint.shape, sum(seen)) == ((8,), effort.passes(8))


def test_the_baseline_is_the_training_pixels_means_by_laplaces_rule():
    training = torch.tensor([[1, 0, 0, 1], [1, 0, 1, 1], [1, 0, 0, 0]]).view(3, 1, 2, 2).byte()
    means = imputation.pixel_means(training)
    torch.testing.assert_close(means.flatten(), torch.tensor([4, 1, 2, 3]) / 5)
    x = torch.tensor([[1, 1, 1, 0]]).view(1, 1, 2, 2).byte()
    found = imputation.score_of_means(means, x, MISSING).item()
    assert found == pytest.approx(-math.log(4 / 5 * 2 / 5 * 2 / 5))


def test_samples_are_of_the_distribution_and_of_the_generator_alone():
    distribution = Independent(Bernoulli(torch.full((40_000, 1, 1, 1), 0.3)), 3)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again = (imputation.sample(distribution, generator(), torch.device("cpu")) for _ in range(2))
    assert first.equal(again)
    assert torch.get_rng_state().equal(before)
    assert first.mean().item() == pytest.approx(0.3, abs=4 * (0.21 / 40_000) ** 0.5)


def test_a_model_that_is_built_meanwhile_takes_no_numbers_of_a_sample():
    building = threading.Thread(target=build, args=(ModelConfig(steps=2, hidden=8), 9, 9))

    class Interrupted(Bernoulli):
        def sample(self, sample_shape=()):
            building.start()
            building.join(1)  # it waits for the sample
            return super().sample(sample_shape)

    share, cpu = torch.full((200,), 0.5), torch.device("cpu")
    alone, found = (
        imputation.sample(kind(share), torch.Generator().manual_seed(0), cpu)
        for kind in (Bernoulli, Interrupted)
    )
    building.join()
    assert torch.equal(found, alone)


def test_pixels_that_depend_on_each_other_are_refused():
    with pytest.raises(BadInput, match="MultivariateNormal, whose pixels are not independent"):
        imputation.pixel_log_prob(MultivariateNormal(torch.zeros(4), torch.eye(4)), COMPLETIONS)
