"""Convolutional DRAW against its equations written out, and whether it learns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.nn import functional

from seqgen.models import SequentialModel, build
from seqgen.models.steps.convolutional import ConvLstmCell
from seqgen.settings import ModelConfig


def small(**choices) -> SequentialModel:
    torch.manual_seed(3)
    config = {"steps": 3, "latents": 2, "hidden": 5, "canvas_channels": 3, "scale": 2}
    model = build(ModelConfig(step="convolutional", **config | choices), 8, 12, 0.2)
    with torch.no_grad():  # away from the start, where the prior is the same whatever h
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def example(model: SequentialModel, batch: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(batch, 1, 8, 12, generator=generator) < 0.3).float(), model.noise(batch, generator)


def test_the_cell_is_an_lstm_at_every_place():
    """Each gate by its own rows of the kernel, place by place, over the 3 x 3 neighbours that are on the map."""
    cell = ConvLstmCell(2, 3)
    x, h, c = torch.randn(1, 2, 4, 5), torch.randn(1, 3, 4, 5), torch.randn(1, 3, 4, 5)
    weight, bias = cell.gates.weight.detach(), cell.gates.bias.detach()
    below = torch.cat([x, h], 1)[0]
    expected_h, expected_c = torch.empty(3, 4, 5), torch.empty(3, 4, 5)
    for row in range(4):
        for column in range(5):
            total = bias.clone()
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    if 0 <= row + down < 4 and 0 <= column + right < 5:
                        total += weight[:, :, down + 1, right + 1] @ below[:, row + down, column + right]
            i, f, g, o = total[:3], total[3:6], total[6:9], total[9:]
            new = torch.sigmoid(f) * c[0, :, row, column] + torch.sigmoid(i) * torch.tanh(g)
            expected_c[:, row, column] = new
            expected_h[:, row, column] = torch.sigmoid(o) * torch.tanh(new)
    got_h, got_c = cell((x,), h, c)
    torch.testing.assert_close(got_h[0], expected_h)
    torch.testing.assert_close(got_c[0], expected_c)


def test_the_bound_is_that_of_the_equations():
    """T steps written out with torch's functions and distributions, latents as maps [B,K,h,w]."""
    model = small()
    step, weights = model.step, dict(model.step.named_parameters())
    x, noise = example(model)

    def conv(name: str, maps: Tensor) -> Tensor:
        return functional.conv2d(maps, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)

    def lstm(name: str, inputs: Tensor, h: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = conv(f"{name}.gates", torch.cat([inputs, h], 1)).chunk(4, 1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell

    maps = 4, 6
    h, cell = (weights[name].view(1, 5, 1, 1).expand(4, 5, *maps) for name in ("h0", "cell0"))
    encoder = torch.zeros(4, 5, *maps), torch.zeros(4, 5, *maps)
    canvas, kls = weights["canvas0"].view(1, 3, 1, 1).expand(4, 3, 8, 12), []
    to_logits = weights["observation.conv.weight"], weights["observation.conv.bias"]
    for t in range(3):
        error = x - torch.sigmoid(functional.conv2d(canvas, *to_logits))
        down = weights["down.weight"], weights["down.bias"]
        read = functional.conv2d(torch.cat([x, error], 1), *down, stride=2, padding=1)
        prior = conv("prior", h)
        encoder = lstm("encoder", torch.cat([read, h], 1), *encoder)
        posterior = conv("posterior", encoder[0]) + prior
        p = Normal(prior[:, :2], prior[:, 2:].exp())
        q = Normal(posterior[:, :2], posterior[:, 2:].exp())
        kls.append(kl_divergence(q, p).sum((1, 2, 3)))
        z = q.mean + q.stddev * noise[t].view(4, 2, *maps)
        h, cell = lstm("decoder", z, h, cell)
        up = weights["up.weight"], weights["up.bias"]
        canvas = canvas + functional.conv_transpose2d(h, *up, stride=2, padding=1)
    bound = model(x, None, noise)
    torch.testing.assert_close(bound.kl, torch.stack(kls), rtol=1e-4, atol=1e-4)
    likelihood = Bernoulli(logits=functional.conv2d(canvas, *to_logits))
    torch.testing.assert_close(bound.log_likelihood, likelihood.log_prob(x).sum((1, 2, 3)))
    assert step.latents.size == model.sizes.latents == 2 * 4 * 6


def test_what_is_not_written_leaves_the_canvas():
    model = small()
    x, noise = example(model)
    with torch.no_grad():
        model.step.up.weight.zero_()
        model.step.up.bias.zero_()
    canvas = model.trace(noise, x).canvas
    start = model.step.observation(model.step.start(4).canvas).sigmoid()
    torch.testing.assert_close(canvas, start.expand_as(canvas))


def test_the_prior_starts_as_standard_normal_and_then_depends_on_what_was_drawn():
    fresh = build(ModelConfig(step="convolutional", steps=2, latents=2, hidden=5), 8, 8)
    state, observed = fresh.step.start(3), fresh.step.observe(None, None)
    noise = fresh.noise(3, torch.Generator())
    _, drawn = fresh.step(0, state, noise[0], observed)
    assert all(part.eq(0).all() for part in drawn.p)
    assert torch.equal(drawn.z, noise[0])

    model = small()
    x, noise = example(model)
    other = noise.clone()
    other[0] += 1
    step = model.step
    priors = []
    for each in (noise, other):
        state, _ = step(0, step.start(4), each[0], step.observe(x, None))
        priors.append(step(1, state, each[1], step.observe(x, None))[1].p[0])
    assert not torch.allclose(*priors)


def test_what_does_not_fit_is_refused():
    config = ModelConfig(step="convolutional", scale=4)
    assert list(config.problems(28)) == []
    assert list(config.problems(30)) == ["scale=4 does not divide data.size=30"]
    with pytest.raises(ValueError, match="scale=3: must be even"):
        ModelConfig(step="convolutional", scale=3)
    with pytest.raises(ValueError, match="step=convolutional is shown no context"):
        ModelConfig(step="convolutional", conditional=True)
    with pytest.raises(ValueError, match="a setting of attention"):
        ModelConfig(step="convolutional", read_size=5)
    with pytest.raises(ValueError, match="observation=identity needs canvas_channels=1"):
        ModelConfig(step="convolutional", observation="identity")
