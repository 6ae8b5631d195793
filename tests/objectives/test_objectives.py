"""The bounds against log p(x) itself, integrated by quadrature on a model of two latents."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from seqgen.models import build
from seqgen.objectives import importance, importance_weighted
from seqgen.settings import ModelConfig

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
    torch.manual_seed(3)
    config = ModelConfig(steps=2, latents=1, hidden=6, conditional=True, **request.param)
    model = build(config, 2, 2, 0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
        # q wide enough that the importance weights have a finite variance.
        model.step.posterior.head.weight[1:].mul_(0.1)
        model.step.posterior.head.bias[1:].fill_(0.4)
    x = torch.tensor([[1.0, 0, 1, 1], [0, 0, 1, 0]]).view(2, 1, 2, 2)
    return model, x, 1 - x


def free_energy(model, x, context, generator) -> torch.Tensor:
    """F with one posterior sample an image."""
    return model(x, context, model.noise(len(x), generator)).free_energy()


def quadrature_log_p(model, x, context, nodes: int = 40) -> torch.Tensor:
    """log of the double integral of p(x | z_1, z_2) N(z_1) N(z_2), Gauss-Hermite."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    z1, z2 = (torch.tensor(g.ravel(), dtype=torch.float32) for g in np.meshgrid(points, points))
    log_weight = torch.tensor(np.log(np.outer(weights, weights)).ravel() - math.log(2 * math.pi))
    values = []
    for image, given in zip(x, context, strict=True):
        batch = len(z1)
        noise = model.noise(batch, torch.Generator())  # of which z are the first column
        noise[..., 0] = torch.stack([z1, z2])
        likelihood = model.decode(noise, given.expand(batch, 1, 2, 2))
        values.append((likelihood.log_prob(image.expand(batch, 1, 2, 2)).double() + log_weight).logsumexp(0))
    return torch.stack(values).float()


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
    images = torch.tensor([[i >> b & 1 for b in range(4)] for i in range(16)], dtype=torch.float32)
    log_p = quadrature_log_p(model, images.view(16, 1, 2, 2), context[:1].expand(16, 1, 2, 2))
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
