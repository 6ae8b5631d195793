"""Densities of grey pixels against scipy, torch and their own integrals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from seqgen.models import build
from seqgen.models.contracts import Observation, Sizes
from seqgen.models.densities import GaussianObservation, LogitNormalObservation
from seqgen.settings import KindSettings, ModelConfig
from seqgen.settings.catalogue import LogitNormalSettings

ALPHAS = (1e-6, 0.05, 0.2)
MEANS, LOG_STDS = (-2.0, 0.1, 0.7), (-3.0, -1.0, 0.5)


def sizes(channels: int = 3, mean: float = 0.3) -> Sizes:
    return Sizes(5, 4, 3, 2, 7, channels, mean)


def logit_normal(alpha: float = 0.05) -> LogitNormalObservation:
    return LogitNormalObservation(LogitNormalSettings(logit_alpha=alpha), sizes())


def both() -> list[Observation]:
    return [GaussianObservation(KindSettings(), sizes()), logit_normal()]


def example(batch: int = 6) -> tuple[Tensor, Tensor]:
    """Parameters [B,2,5,4] and pixels in [0,1)."""
    generator = torch.Generator().manual_seed(0)
    parameters = torch.randn(batch, 2, 5, 4, generator=generator, dtype=torch.float64)
    parameters[:, 1] *= 0.5
    return parameters, torch.rand(batch, 1, 5, 4, generator=generator, dtype=torch.float64)


def density(observation: Observation, mean: float, log_std: float, x: float) -> float:
    """p(x) of one pixel."""
    parameters = torch.tensor([mean, log_std], dtype=torch.float64).view(1, 2, 1, 1)
    pixel = torch.tensor(x, dtype=torch.float64).view(1, 1, 1, 1)
    return math.exp(observation.log_likelihood(parameters, pixel).item())


def test_the_gaussian_is_scipys():
    parameters, x = example()
    mean, log_std = parameters.chunk(2, 1)
    expected = stats.norm(mean.numpy(), np.exp(log_std.numpy())).logpdf(x.numpy()).sum((1, 2, 3))
    found = both()[0].log_likelihood(parameters, x)
    torch.testing.assert_close(found, torch.from_numpy(expected))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_logit_normal_is_scipys_normal_of_the_logit_with_a_numerical_slope(alpha: float):
    parameters, x = example()
    mean, log_std = parameters.numpy()[:, :1], parameters.numpy()[:, 1:]
    pixels = x.numpy().clip(0.01, 0.99)  # where a finite difference tells the slope

    def logit(of: np.ndarray) -> np.ndarray:
        inner = alpha + (1 - 2 * alpha) * of
        return np.log(inner / (1 - inner))

    step = 1e-6
    slope = (logit(pixels + step) - logit(pixels - step)) / (2 * step)
    expected = (stats.norm(mean, np.exp(log_std)).logpdf(logit(pixels)) + np.log(slope)).sum((1, 2, 3))
    found = logit_normal(alpha).log_likelihood(parameters, torch.from_numpy(pixels))
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


def test_the_distribution_has_the_log_likelihood_and_the_mean():
    parameters, x = example()
    for observation in both():
        distribution = observation.distribution(parameters)
        assert distribution.event_shape == (1, 5, 4)
        torch.testing.assert_close(distribution.log_prob(x), observation.log_likelihood(parameters, x))
        torch.testing.assert_close(distribution.mean, observation.mean(parameters))
        expected = torch.cat([x, x - observation.mean(parameters)], 1)
        assert torch.equal(observation.beside_error(x, parameters), expected)
        torch.manual_seed(0)
        drawn = distribution.sample((20_000,))
        error = (
            5 * drawn.std(0) / math.sqrt(len(drawn)) + 5e-4
        )  # the latter is the quadrature's, at sigma = 4
        assert ((drawn.mean(0) - distribution.mean).abs() < error).all()


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("log_std", LOG_STDS)
def test_a_density_integrates_to_one_and_over_the_unit_interval_to_its_share(mean: float, log_std: float):
    std = math.exp(log_std)
    gaussian = both()[0]
    near = {"limit": 200, "epsabs": 1e-10}
    shares = [
        integrate.quad(lambda x: density(gaussian, mean, log_std, x), mean + a * std, mean + b * std, **near)[
            0
        ]
        for a, b in ((-9, 0), (0, 9))
    ]
    assert sum(shares) == pytest.approx(1, abs=1e-8)
    for alpha in ALPHAS:
        observation = logit_normal(alpha)
        spread = 1 / (1 - 2 * alpha)

        def at(y: float, alpha: float = alpha, spread: float = spread) -> float:
            return (1 / (1 + math.exp(-y)) - alpha) * spread

        def integral(low: float, high: float, observation: Observation = observation) -> float:
            return integrate.quad(lambda x: density(observation, mean, log_std, x), low, high, **near)[0]

        cuts = [at(mean + k * std) for k in (-7, -4, -2, 0, 2, 4, 7)]
        whole = sum(integral(a, b) for a, b in itertools.pairwise(cuts))
        assert whole == pytest.approx(1, abs=1e-6)
        inside = [0.0, *(cut for cut in cuts if 0 < cut < 1), 1.0]
        unit = sum(integral(a, b) for a, b in itertools.pairwise(inside))
        edge = math.log((1 - alpha) / alpha)
        share = stats.norm.cdf((edge - mean) / std) - stats.norm.cdf((-edge - mean) / std)
        assert unit == pytest.approx(share, abs=1e-6)


def test_the_logit_normals_mean_is_the_integral():
    observation = logit_normal()
    for mean in MEANS:
        for std in (0.01, 0.5, 1.5, 3.0):
            parameters = torch.tensor([mean, math.log(std)], dtype=torch.float64).view(1, 2, 1, 1)
            found = observation.mean(parameters).item()
            expected, _ = integrate.quad(
                lambda e, m=mean, s=std: stats.norm.pdf(e) * (1 / (1 + math.exp(-m - s * e)) - 0.05) / 0.9,
                -10,
                10,
            )
            assert found == pytest.approx(expected, abs=3e-4)


def test_a_model_starts_at_the_mean_pixel():
    canvas = torch.zeros(1, 3, 5, 4)
    for observation in both():
        parameters = observation(canvas)
        middle = parameters[:, :1]
        if isinstance(observation, LogitNormalObservation):
            middle = (middle.sigmoid() - 0.05) / 0.9
        torch.testing.assert_close(middle, torch.full((1, 1, 5, 4), 0.3))


def test_log_sigma_is_kept_in_range_and_black_and_white_are_finite():
    parameters = torch.tensor([0.0, -50.0]).view(1, 2, 1, 1).expand(2, 2, 3, 3)
    x = torch.stack([torch.zeros(1, 3, 3), torch.ones(1, 3, 3)])
    for observation in (*both(), logit_normal(1e-6)):
        assert observation.log_likelihood(parameters, x).isfinite().all()
    at_most = both()[0].log_likelihood(parameters[:1], torch.zeros(1, 1, 3, 3)).item()
    assert at_most == pytest.approx(9 * (7 - 0.5 * math.log(2 * math.pi)), rel=1e-5)


def test_under_autocast_the_parameters_stay_float32():
    canvas = torch.randn(2, 3, 5, 4)
    for observation in both():
        with torch.autocast("cpu", torch.bfloat16):
            found = observation(canvas)
        assert torch.equal(found, observation(canvas))


@pytest.mark.parametrize("kind", ["gaussian", "logit-normal"])
def test_the_gradient_of_a_member_is_the_finite_difference(kind: str):
    choices = {"steps": 2, "latents": 2, "hidden": 9, "attention": "full", "error_image": True}
    torch.manual_seed(1)
    model = build(ModelConfig(observation=kind, **choices), 6, 6, 0.3).double()
    x = torch.rand(3, 1, 6, 6, dtype=torch.float64)
    noise = model.noise(3, torch.Generator().manual_seed(1)).double()

    def bound() -> Tensor:
        return model(x, None, noise).free_energy().sum()

    bound().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    direction = [torch.randn_like(parameter) for parameter in model.parameters()]
    slope = sum((p.grad * d).sum().item() for p, d in zip(model.parameters(), direction, strict=True))
    values = []
    with torch.no_grad():
        for shift in (1e-6, -2e-6):
            for p, d in zip(model.parameters(), direction, strict=True):
                p.add_(shift * d)
            values.append(bound().item())
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-4)
    torch.testing.assert_close(model.trace(noise, x).canvas[-1], model.infer(x, None, noise).likelihood.mean)
