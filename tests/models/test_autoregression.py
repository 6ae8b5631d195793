"""Observations whose pixels depend on those before them, against their equations, sums and counts."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from seqgen.models import build
from seqgen.models.autoregression import AutoregressiveObservation, AutoregressivePixels, LocalObservation
from seqgen.models.contracts import Sizes
from seqgen.settings import KindSettings, ModelConfig
from seqgen.settings.catalogue import LocalObservationSettings

SIZES = Sizes(3, 4, 1, 1, 1, 2, 0.3)
IMAGES = torch.tensor(list(itertools.product((0.0, 1.0), repeat=12))).view(-1, 1, 3, 4)


def linear() -> AutoregressivePixels:
    return _moved(AutoregressiveObservation(KindSettings(), SIZES))


def local(layers: int = 2) -> AutoregressivePixels:
    settings = LocalObservationSettings(pixel_window=3, pixel_hidden=5, pixel_layers=layers)
    return _moved(LocalObservation(settings, SIZES))


def _moved(observation: AutoregressivePixels) -> AutoregressivePixels:
    """With weights away from zero, yet no pixel nearly sure."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in observation.parameters():
            parameter.copy_(0.6 * torch.randn_like(parameter))
    return observation.requires_grad_(False)


def parameters(observation: AutoregressivePixels, batch: int) -> Tensor:
    channels = 1 if isinstance(observation, AutoregressiveObservation) else 2
    torch.manual_seed(1)
    return observation(torch.randn(batch, channels, 3, 4))


@pytest.mark.parametrize("observation", [linear(), local(), local(3)])
def test_all_images_together_have_probability_one(observation: AutoregressivePixels):
    total = observation.log_likelihood(parameters(observation, 1).expand(len(IMAGES), -1, -1, -1), IMAGES)
    assert total.exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert total.exp().std() > 1e-5  # and not all the same


def test_a_pixel_of_the_local_kind_is_that_of_its_equation():
    """logit = w c + b + a . elu(W' elu(U c + u + V x_before) + w'), pixel by pixel, zero beyond the border."""
    observation, x = local(), IMAGES[2741:2743]
    torch.manual_seed(1)
    canvas = torch.randn(2, 2, 3, 4)
    logits = observation.given(observation(canvas), x)
    (second,) = observation.layers
    for image, row, column in itertools.product(range(2), range(3), range(4)):
        before = [
            float(x[image, 0, row + i, column + j]) if row + i >= 0 and 0 <= column + j < 4 else 0.0
            for i, j in ((-1, -1), (-1, 0), (-1, 1), (0, -1))
        ]
        c = canvas[image, :, row, column]
        first = observation.canvas.weight[:, :, 0, 0] @ c + observation.canvas.bias
        first = elu(first + observation.pixels.weight @ torch.tensor(before))
        units = elu(second.weight @ first + second.bias)
        expected = (
            observation.conv.weight[0, :, 0, 0] @ c + observation.conv.bias + observation.add.weight @ units
        )
        assert logits[image, 0, row, column].item() == pytest.approx(expected.item(), abs=1e-5)


def elu(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, values.exp() - 1)


@pytest.mark.parametrize("observation", [linear(), local()])
def test_samples_are_as_frequent_as_probable(observation: AutoregressivePixels):
    """Of four images, each with canvas of its own; chi-square over the values of five pixels, 31 degrees of freedom."""
    given = parameters(observation, 4)
    torch.manual_seed(2)
    distribution = observation.distribution(given)
    drawn = distribution.sample((20_000,))
    assert drawn.shape == (20_000, 4, 1, 3, 4)
    torch.testing.assert_close(
        distribution.log_prob(drawn[:7]),
        torch.stack([observation.log_likelihood(given, x) for x in drawn[:7]]),
    )
    anywhere = distribution.log_prob(IMAGES[5])  # one image, of all four canvases
    torch.testing.assert_close(anywhere, observation.log_likelihood(given, IMAGES[5].expand(4, -1, -1, -1)))
    assert distribution.log_prob(drawn[:7, :1]).shape == (7, 4)
    place = (2 ** torch.arange(5)).float()
    for image in range(4):
        p = observation.log_likelihood(given[image : image + 1].expand(len(IMAGES), -1, -1, -1), IMAGES).exp()
        some = (0, 3, 5, 6, 10)
        expected = 20_000 * torch.zeros(32).index_add(0, (IMAGES.flatten(1)[:, some] @ place).long(), p)
        counts = torch.bincount((drawn[:, image].flatten(1)[:, some] @ place).long(), minlength=32)
        likely = expected > 5
        assert likely.sum() > 10
        statistic = ((counts - expected)[likely].square() / expected[likely]).sum()
        assert statistic < 61.1  # one in a thousand


@pytest.mark.parametrize("observation", [linear(), local()])
def test_a_picture_is_of_probabilities_given_a_sample_of_the_pixels_before(observation: AutoregressivePixels):
    given = parameters(observation, 5)
    uniform = torch.rand(5, 1, 3, 4)
    probability, values = observation.in_order(given, uniform)
    torch.testing.assert_close(observation.given(given, values).sigmoid(), probability)
    assert torch.equal(values, (uniform < probability).float())
    picture = observation.mean(given)
    assert torch.equal(picture, observation.mean(given))
    torch.testing.assert_close(picture[2:3], observation.mean(given[2:3]))  # whatever is drawn beside it
    x = IMAGES[100:105]
    of_canvas = given[:, :1].sigmoid()
    torch.testing.assert_close(observation.beside_error(x, given), torch.cat([x, x - of_canvas], 1))


def test_any_canvas_takes_it_and_it_starts_as_the_canvas_alone():
    for settings in ({"canvas": "cgru"}, {"canvas": "additive", "error_image": True, "inference": "encoder"}):
        settings |= {"steps": 2, "hidden": 8, "observation": "local-autoregressive", "attention": "full"}
        torch.manual_seed(0)
        model = build(ModelConfig(**settings), 6, 6, 0.3)
        x = torch.rand(3, 1, 6, 6).round()
        canvas = model.step.start(3).canvas
        of_canvas = model.step.observation.conv(canvas)
        torch.testing.assert_close(model.step.observation.given(model.step.observation(canvas), x), of_canvas)
        bound = model(x, None, model.noise(3, torch.Generator().manual_seed(0)))
        bound.free_energy().mean().backward()
        assert all(
            p.grad is not None and p.grad.isfinite().all() for p in model.step.observation.parameters()
        )
        assert model.step.observation.add.weight.grad.abs().max() > 0


def test_a_window_has_a_middle():
    with pytest.raises(ValueError, match="pixel_window=4: must be odd"):
        ModelConfig(observation="local-autoregressive", pixel_window=4)
