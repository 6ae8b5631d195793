"""The bounds against log p(x) itself, integrated by quadrature on a model of two latents."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, Normal

from seqgen.models import build
from seqgen.models.model import Inference
from seqgen.objectives import importance, importance_estimate, importance_weighted
from seqgen.settings import ModelConfig
from tests.quadrature import all_images, quadrature_log_p, tiny_model

WINDOWS = {"read_size": 2, "write_size": 2}
MEMBERS = {
    "spatial-transformer": WINDOWS,
    "gaussian": {"attention": "gaussian", **WINDOWS},
    "full": {"attention": "full"},
    "random": {"attention": "random", "read_size": 1, "write_size": 2},
    "error": {"attention": "error", "error_image": True, "read_size": 1, "write_size": 2},
    "learned prior": {"prior": "learned", "infer_from_context": True, **WINDOWS},
}


@pytest.fixture(params=MEMBERS.values(), ids=MEMBERS.keys())
def tiny(request):
    """H = W = 2, K = 1, T = 2, with weights large enough that z matters and q is not p."""
    model = tiny_model(conditional=True, **request.param)
    x = torch.tensor([[1.0, 0, 1, 1], [0, 0, 1, 0]]).view(2, 1, 2, 2)
    return model, x, 1 - x


def free_energy(model, x, context, generator) -> torch.Tensor:
    """F with one posterior sample an image."""
    return model(x, context, model.noise(len(x), generator)).free_energy()


@torch.no_grad()
def test_free_energy_bounds_log_p_and_importance_weights_reach_it(tiny):
    model, x, context = tiny
    log_p = quadrature_log_p(model, x, context)
    generator = torch.Generator().manual_seed(0)
    many = 5_000
    bound = free_energy(model, x.repeat(many, 1, 1, 1), context.repeat(many, 1, 1, 1), generator)
    mean = bound.view(many, 2).mean(0)
    error = bound.view(many, 2).std(0) / many**0.5
    assert (mean > -log_p + 3 * error).all(), "F must lie above -log p(x) when q is not the true posterior"

    tight = importance_weighted(model, x, context, 160_000, generator, chunk=40_000)
    torch.testing.assert_close(tight, log_p, atol=0.02, rtol=0)


@torch.no_grad()
def test_the_quadrature_sums_to_one_over_all_images(tiny):
    model, _, context = tiny
    log_p = quadrature_log_p(model, all_images(), context[:1])
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-3)


@torch.no_grad()
def test_importance_bound_tightens_with_k(tiny):
    model, x, context = tiny
    generator = torch.Generator().manual_seed(1)
    x, context = x.repeat(1500, 1, 1, 1), context.repeat(1500, 1, 1, 1)
    draws = [
        importance_weighted(model, x, context, k, generator, chunk=30_000).view(-1, 2) for k in (1, 5, 50)
    ]
    values = [draw.mean(0) for draw in draws]
    assert (values[0] < values[1]).all()
    assert (values[1] < values[2]).all()
    # k = 1 is the free energy with the KL sampled: the same mean.
    f = free_energy(model, x, context, generator).view(-1, 2)
    error = ((draws[0].var(0) + f.var(0)) / len(f)).sqrt()
    assert ((-values[0] - f.mean(0)).abs() < 4 * error).all()


@torch.no_grad()
def test_the_estimate_is_one_log_mean_exp_however_it_is_cut(monkeypatch):
    model = build(ModelConfig(steps=3, hidden=8, read_size=3, write_size=3), 12, 12, 0.5)
    x = torch.rand(5, 1, 12, 12).round()
    # Weights far apart and far below what float32 can exponentiate.
    weights = -1000 + 50 * torch.randn(24 * 5, generator=torch.Generator().manual_seed(0))
    largest = []

    def numbered(model, x, context, noise):
        start = sum(largest)
        largest.append(noise.shape[1])
        return weights[start : start + noise.shape[1]]

    monkeypatch.setattr(importance, "log_importance_weights", numbered)
    expected = weights.view(24, 5).logsumexp(0) - math.log(24)
    for chunk in (5, 10, 35, 120, 1200):
        largest.clear()
        estimate = importance_weighted(model, x, None, 24, torch.Generator(), chunk=chunk)
        torch.testing.assert_close(estimate, expected)
        assert max(largest) <= chunk
        assert sum(largest) == 24 * 5


@torch.no_grad()
def test_the_chunk_changes_nothing_and_an_images_samples_are_its_own():
    torch.manual_seed(0)
    model = build(ModelConfig(steps=3, hidden=8, attention="full"), 12, 12, 0.5)
    x = torch.rand(5, 1, 12, 12).round()
    results = [
        importance_weighted(model, x, None, 6, torch.Generator().manual_seed(4), chunk=chunk)
        for chunk in (5, 12, 99)
    ]
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])
    generator = torch.Generator().manual_seed(4)
    one_by_one = [importance_weighted(model, image[None], None, 6, generator) for image in x]
    torch.testing.assert_close(results[0], torch.cat(one_by_one))


@torch.no_grad()
def test_a_batch_larger_than_the_chunk_is_refused():
    model = build(ModelConfig(steps=1, hidden=8, read_size=3, write_size=3), 12, 12, 0.5)
    with pytest.raises(ValueError, match="chunk"):
        importance_weighted(model, torch.zeros(9, 1, 12, 12), None, 2, torch.Generator(), chunk=8)


@torch.no_grad()
def test_the_bound_of_a_real_model_is_finite_where_its_weights_underflow():
    torch.manual_seed(0)
    model = build(ModelConfig(steps=3, hidden=8, read_size=3, write_size=3), 16, 16, 0.5)
    bound = importance_weighted(
        model, torch.rand(5, 1, 16, 16).round(), None, 24, torch.Generator(), chunk=30
    )
    assert bound.isfinite().all()
    assert (bound < -110).all()  # e^-110 is zero in float32


def weighted(monkeypatch, weights: list[list[float]], chunk: int = 1000) -> importance.Importance:
    """The estimate of given weights, those of an image in a row."""
    log_weights = torch.tensor(weights).T.log().flatten()  # sample by sample
    done = []

    def given(model, x, context, noise):
        start = sum(done)
        done.append(noise.shape[1])
        return log_weights[start : start + noise.shape[1]] - 500

    monkeypatch.setattr(importance, "log_importance_weights", given)
    model = build(ModelConfig(steps=1, hidden=8, attention="full"), 4, 4, 0.5)
    x = torch.zeros(len(weights), 1, 4, 4)
    return importance_estimate(model, x, None, len(weights[0]), torch.Generator(), chunk)


@pytest.mark.parametrize("chunk", [3, 6, 100])
def test_effective_samples_are_kongs_and_the_largest_weights_share_is_of_the_sum(monkeypatch, chunk):
    found = weighted(monkeypatch, [[1, 1, 1, 1], [1e-9, 1, 1e-9, 1e-9], [1, 2, 3, 4]], chunk)
    torch.testing.assert_close(found.effective, torch.tensor([4, 1, 10**2 / 30]), rtol=1e-3, atol=0)
    torch.testing.assert_close(found.largest, torch.tensor([0.25, 1, 0.4]), rtol=1e-3, atol=0)
    torch.testing.assert_close(found.bound, torch.tensor([1, 0.25, 2.5]).log() - 500, rtol=0, atol=1e-3)


class LinearGaussian:
    """z ~ N(0, 1), x = 2 z + noise of one pixel; q = N(mean, sigma) is not the posterior N(0.4 x, 0.2 ** 0.5)."""

    mean, sigma = 0.6, 0.7

    def noise(self, batch, generator):
        return torch.randn(1, batch, 1, generator=generator)

    def infer(self, x, context, noise):
        q = Normal(self.mean, self.sigma)
        z = self.mean + self.sigma * noise
        ratio = (Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)).sum(-1)
        return Inference(z, ratio, None, q, Independent(Normal(2 * z[0].view(-1, 1, 1, 1), 1.0), 3))


def test_a_linear_gaussian_models_log_p_and_effective_samples_are_the_closed_forms():
    """k / ESS goes to E_q[(p(z | x) / q(z))^2] = s^2 / (sigma v^0.5) exp((m - mu)^2 / v), v = 2 s^2 - sigma^2.

    q = N(m, s), the posterior N(mu, sigma).
    """
    k = 40_000
    x = torch.full((1, 1, 1, 1), 1.2)
    found = importance_estimate(LinearGaussian(), x, None, k, torch.Generator().manual_seed(0), 10_000)
    log_p = Normal(0.0, 5**0.5).log_prob(torch.tensor(1.2)).item()
    assert found.bound.item() == pytest.approx(log_p, abs=0.02)
    squared, v = 0.7**2, 2 * 0.7**2 - 0.2
    ratio = squared * math.exp((0.6 - 0.48) ** 2 / v) / (0.2 * v) ** 0.5
    assert ratio > 1.2
    assert k / found.effective.item() == pytest.approx(ratio, rel=0.03)
