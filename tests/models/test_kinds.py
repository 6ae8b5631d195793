"""Canvas, transition, latents and observation against their equations."""

from __future__ import annotations

import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

from seqgen.models.canvases import AdditiveCanvas, GatedCanvas
from seqgen.models.contracts import Sizes
from seqgen.models.latents import GaussianLatents
from seqgen.models.layers import LstmCell
from seqgen.models.observations import IdentityObservation
from seqgen.ops import standard_normal_kl
from seqgen.settings import KindSettings


def sizes(channels: int = 1, latents: int = 4) -> Sizes:
    return Sizes(8, 8, 3, latents, 7, channels, 0.5)


def test_gated_canvas_is_the_cgru_of_the_paper():
    canvas = GatedCanvas(KindSettings(), sizes(4))
    c, w = torch.randn(2, 4, 9, 7), torch.randn(2, 4, 9, 7)
    s = c + w
    kernel_u, kernel_r = canvas.gates.weight.chunk(2)
    bias_u, bias_r = canvas.gates.bias.chunk(2)
    u = torch.sigmoid(functional.conv2d(s, kernel_u, bias_u, padding=1))
    r = torch.sigmoid(functional.conv2d(s, kernel_r, bias_r, padding=1))
    new = torch.tanh(functional.conv2d(r * s, canvas.candidate.weight, canvas.candidate.bias, padding=1))
    torch.testing.assert_close(canvas(c, w), u * s + (1 - u) * new, atol=1e-6, rtol=1e-5)


def test_gated_canvas_that_keeps_all_is_the_additive_one():
    canvas = GatedCanvas(KindSettings(), sizes(3))
    with torch.no_grad():
        canvas.gates.weight.zero_()
        canvas.gates.bias[:3] = 40.0
    c, w = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(canvas(c, w), AdditiveCanvas(KindSettings(), sizes(3))(c, w))


def test_lstm_cell_is_torchs():
    ours, theirs = LstmCell(5, 7), torch.nn.LSTMCell(5, 7)
    with torch.no_grad():
        theirs.weight_ih.copy_(ours.linear.weight[:, :5])
        theirs.weight_hh.copy_(ours.linear.weight[:, 5:])
        theirs.bias_ih.copy_(ours.linear.bias)
        theirs.bias_hh.zero_()
    x, h, cell = torch.randn(3, 5), torch.randn(3, 7), torch.randn(3, 7)
    torch.testing.assert_close(ours((x,), h, cell), theirs(x, (h, cell)))


def test_kl_is_the_closed_form():
    mean, log_std = torch.randn(6, 3, 4), torch.randn(6, 3, 4)
    latents = GaussianLatents(KindSettings(), sizes())
    q, standard = Normal(mean, log_std.exp()), Normal(torch.zeros(4), torch.ones(4))
    torch.testing.assert_close(latents.kl(mean, (mean, log_std), ()), kl_divergence(q, standard).sum(-1))
    learned = torch.randn(6, 3, 4), torch.randn(6, 3, 4)
    expected = kl_divergence(q, Normal(learned[0], learned[1].exp())).sum(-1)
    torch.testing.assert_close(latents.kl(mean, (mean, log_std), learned), expected)
    assert standard_normal_kl(torch.zeros(2, 4), torch.zeros(2, 4)).abs().max() == 0


def test_log_ratio_is_that_of_the_distributions():
    latents = GaussianLatents(KindSettings(), sizes())
    mean, log_std, z = torch.randn(6, 3, 4), 0.5 * torch.randn(6, 3, 4), torch.randn(6, 3, 4)
    q = latents.distribution((mean, log_std))
    for p in ((), (torch.randn(6, 3, 4), 0.5 * torch.randn(6, 3, 4))):
        prior = Normal(p[0], p[1].exp()) if p else Normal(torch.zeros(4), torch.ones(4))
        expected = (prior.log_prob(z) - q.log_prob(z)).sum(-1)
        torch.testing.assert_close(latents.log_ratio(z, (mean, log_std), p), expected, atol=1e-4, rtol=1e-4)


def test_latents_draw_by_their_noise():
    latents = GaussianLatents(KindSettings(), sizes())
    noise = latents.noise(3, 5, torch.Generator().manual_seed(0))
    assert noise.shape == (3, 5, 4)
    assert torch.equal(noise, latents.noise(3, 5, torch.Generator().manual_seed(0)))
    parameters = torch.randn(5, latents.parameters_of_q)
    z, (mean, log_std) = latents.draw(parameters, noise[0])
    torch.testing.assert_close(z, mean + log_std.exp() * noise[0])
    assert torch.equal(latents.draw_from_prior((), noise[0]), noise[0])
    torch.testing.assert_close(latents.draw_from_prior((mean, log_std), noise[0]), z)


def test_bernoulli_log_likelihood_is_the_distributions_and_survives_large_logits():
    observation = IdentityObservation(KindSettings(), sizes())
    logits, x = 3 * torch.randn(5, 1, 6, 6), torch.rand(5, 1, 6, 6).round()
    expected = torch.distributions.Bernoulli(logits=logits).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(observation.log_likelihood(logits, x), expected)
    torch.testing.assert_close(observation.distribution(logits).log_prob(x), expected)
    beside = observation.beside_error(x, logits)
    assert torch.equal(beside, torch.cat([x, x - observation.mean(logits)], 1))
    extreme = observation.log_likelihood(torch.full((1, 1, 1, 2), 500.0), torch.tensor([[[[1.0, 0.0]]]]))
    torch.testing.assert_close(extreme, torch.tensor([-500.0]))
