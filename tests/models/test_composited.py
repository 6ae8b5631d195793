"""The composited VAE against a loop over pixels and layers, and whether it learns where digits lie."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from seqgen.models import SequentialModel, build
from seqgen.models.observations import CompositeObservation
from seqgen.settings import KindSettings, ModelConfig

HEIGHT, WIDTH, SIDE, BATCH = 10, 13, 5, 3


def small(**choices) -> SequentialModel:
    torch.manual_seed(3)
    config = {"steps": 3, "latents": 2, "hidden": 7, "sprite_size": SIDE}
    model = build(ModelConfig(step="composited", **config | choices), HEIGHT, WIDTH, 0.2)
    with torch.no_grad():  # away from the start, where all sprites are nearly alike and in the middle
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def example(model: SequentialModel) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(BATCH, 1, HEIGHT, WIDTH, generator=generator) < 0.3
    return x.float(), model.noise(BATCH, generator)


def bilinear(image: list[list[float]], x: float, y: float) -> float:
    """`image` at column x and row y, of pixel centres; zero outside."""
    total = 0.0
    for row, values in enumerate(image):
        for column, value in enumerate(values):
            total += value * max(0.0, 1 - abs(x - column)) * max(0.0, 1 - abs(y - row))
    return total


def test_layers_are_composited_front_to_back_pixel_by_pixel():
    """A pixel shows of each layer, at its place on the sprite, what the masks in front let through."""
    model = small()
    _, noise = example(model)
    step, got = model.step, model.sample(noise)
    background = step.observation.background.sigmoid().item()
    for image in range(BATCH):
        layers = []
        for z in noise[:, image]:
            log_size, shift_x, shift_y = (z[:3] * torch.tensor([0.1, 0.4, 0.4])).tolist()
            colour, mask = step.decoder(z[None, 3:])[0].sigmoid().tolist()
            layers.append((math.exp(log_size), shift_x, shift_y, colour, mask))
        for row in range(HEIGHT):
            for column in range(WIDTH):
                shown, through = 0.0, 1.0
                for size, shift_x, shift_y, colour, mask in layers:
                    # In pixels from the sprite's middle, which is off the image's by the shift.
                    right = (column + 0.5 - WIDTH / 2 - shift_x * WIDTH / 2) / size
                    down = (row + 0.5 - HEIGHT / 2 - shift_y * HEIGHT / 2) / size
                    place = right + SIDE / 2 - 0.5, down + SIDE / 2 - 0.5
                    opaque = bilinear(mask, *place)
                    shown += through * opaque * bilinear(colour, *place)
                    through *= 1 - opaque
                expected = 1e-4 + (1 - 2e-4) * (shown + through * background)
                assert got[image, 0, row, column].item() == pytest.approx(expected, abs=1e-5)


def test_one_opaque_layer_hides_those_behind():
    model = small()
    _, noise = example(model)
    with torch.no_grad():  # masks of one, in front of everything
        model.step.decoder[2].weight[SIDE**2 :] = 0
        model.step.decoder[2].bias[SIDE**2 :] = 100
        model.step.own_size.fill_(3)  # a sprite three times the image
    canvas = model.trace(noise).canvas
    torch.testing.assert_close(canvas, canvas[:1].expand_as(canvas))


def test_a_mask_of_nothing_leaves_the_canvas():
    model = small()
    x, noise = example(model)
    with torch.no_grad():
        model.step.decoder[2].weight[SIDE**2 :] = 0
        model.step.decoder[2].bias[SIDE**2 :] = -200
    canvas = model.trace(noise, x).canvas
    background = 1e-4 + (1 - 2e-4) * model.step.observation.background.sigmoid()
    torch.testing.assert_close(canvas, background.expand_as(canvas))


def test_the_kl_is_that_of_pose_and_content_as_they_were_drawn():
    """The parameters of q(content | pose) are read at the pose that was drawn, by hand."""
    model = small()
    step = model.step
    x, noise = example(model)
    bound, inferred = model(x, None, noise), model.infer(x, None, noise)
    state = step.start(BATCH)
    for t in range(3):
        seen = torch.cat([x, state.canvas], 1)
        mean, log_std = step.pose(seen).chunk(2, 1)
        pose = mean + log_std.exp() * noise[t, :, :3]
        patch = torch.zeros(BATCH, 3, SIDE, SIDE)
        for image in range(BATCH):
            size, shift_x, shift_y = pose[image, 0].exp().item(), *pose[image, 1:].tolist()
            for channel, row, column in torch.cartesian_prod(*map(torch.arange, (3, SIDE, SIDE))).tolist():
                right = (column + 0.5 - SIDE / 2) * size + (1 + shift_x) * WIDTH / 2 - 0.5
                down = (row + 0.5 - SIDE / 2) * size + (1 + shift_y) * HEIGHT / 2 - 0.5
                patch[image, channel, row, column] = bilinear(seen[image, channel].tolist(), right, down)
        of_content = step.content(patch).chunk(2, 1)
        q_pose, q_content = Normal(mean, log_std.exp()), Normal(of_content[0], of_content[1].exp())
        p_pose, p_content = Normal(torch.zeros(3), torch.tensor([0.1, 0.4, 0.4])), Normal(0.0, 1.0)
        kl = kl_divergence(q_pose, p_pose).sum(1) + kl_divergence(q_content, p_content).sum(1)
        torch.testing.assert_close(bound.kl[t], kl, rtol=1e-3, atol=1e-3)
        content = q_content.mean + q_content.stddev * noise[t, :, 3:]
        ratio = (p_pose.log_prob(pose) - q_pose.log_prob(pose)).sum(1)
        ratio = ratio + (p_content.log_prob(content) - q_content.log_prob(content)).sum(1)
        torch.testing.assert_close(inferred.log_ratio[t], ratio, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(inferred.z[t], torch.cat([pose, content], 1), rtol=1e-3, atol=1e-4)
        state, _ = step(t, state, noise[t], step.observe(x, None))


def test_the_window_is_where_the_sprite_lies():
    model = small()
    _, noise = example(model)
    windows = model.trace(noise).write.squeeze(2)
    for t in range(3):
        size = (0.1 * noise[t, :, 0]).exp() * SIDE
        middle = (1 + 0.4 * noise[t, :, 1:3]) / 2 * torch.tensor([WIDTH, HEIGHT])
        torch.testing.assert_close(windows[t].mean(1), middle)
        torch.testing.assert_close(windows[t, :, 2] - windows[t, :, 0], size[:, None].expand(-1, 2))


def test_the_observation_is_finite_where_the_layers_are_certain():
    observation = CompositeObservation(KindSettings(), small().sizes)
    canvas = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]).view(3, 2, 1, 1).requires_grad_()
    for pixel in (0.0, 1.0):
        log_likelihood = observation.log_likelihood(observation(canvas), torch.full((3, 1, 1, 1), pixel))
        expected = [1 - 1e-4, 1e-4, 1e-4 + (1 - 2e-4) * observation.background.sigmoid().item()]
        expected = [math.log(p if pixel else 1 - p) for p in expected]
        assert log_likelihood.tolist() == pytest.approx(expected, rel=5e-3)
        (gradient,) = torch.autograd.grad(log_likelihood.sum(), canvas)
        assert gradient.isfinite().all()
        assert gradient[:, 0].abs().min() > 0.5


def test_what_does_not_fit_is_refused():
    config = ModelConfig(step="composited")
    assert list(config.problems(64)) == []
    assert list(config.problems(20)) == ["sprite_size=28 exceeds data.size=20"]
    with pytest.raises(ValueError, match="step=composited is shown no context"):
        ModelConfig(step="composited", conditional=True)
    with pytest.raises(ValueError, match="step=composited has no such setting"):
        ModelConfig(step="composited", canvas="cgru")
    with pytest.raises(ValueError, match="step=composited has layers; use composite"):
        ModelConfig(step="composited", observation="conv")
    with pytest.raises(ValueError, match="only for step=composited; step=sequential takes conv"):
        ModelConfig(observation="composite")
    with pytest.raises(ValueError, match="shift_sd"):
        ModelConfig(step="composited", shift_sd=0)
