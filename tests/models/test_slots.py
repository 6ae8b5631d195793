"""Canvas, transition and posterior against their equations."""

from __future__ import annotations

import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

from seqgen.models.canvas import AdditiveCanvas, GatedCanvas
from seqgen.models.gaussian import gaussian_kl
from seqgen.models.observation import bernoulli_log_prob
from seqgen.models.transition import LstmCell


def test_gated_canvas_is_the_cgru_of_the_paper():
    canvas = GatedCanvas(4)
    c, w = torch.randn(2, 4, 9, 7), torch.randn(2, 4, 9, 7)
    s = c + w
    kernel_u, kernel_r = canvas.gates.weight.chunk(2)
    bias_u, bias_r = canvas.gates.bias.chunk(2)
    u = torch.sigmoid(functional.conv2d(s, kernel_u, bias_u, padding=1))
    r = torch.sigmoid(functional.conv2d(s, kernel_r, bias_r, padding=1))
    new = torch.tanh(functional.conv2d(r * s, canvas.candidate.weight, canvas.candidate.bias, padding=1))
    torch.testing.assert_close(canvas(c, w), u * s + (1 - u) * new, atol=1e-6, rtol=1e-5)


def test_gated_canvas_that_keeps_all_is_the_additive_one():
    canvas = GatedCanvas(3, keep=40.0)
    with torch.no_grad():
        canvas.gates.weight.zero_()
    c, w = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(canvas(c, w), AdditiveCanvas()(c, w))


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
    expected = kl_divergence(Normal(mean, log_std.exp()), Normal(torch.zeros(4), torch.ones(4))).sum(-1)
    torch.testing.assert_close(gaussian_kl(mean, log_std), expected)
    assert gaussian_kl(torch.zeros(2, 4), torch.zeros(2, 4)).abs().max() == 0


def test_bernoulli_log_prob_is_the_distributions_and_survives_large_logits():
    logits, x = 3 * torch.randn(5, 1, 6, 6), torch.rand(5, 1, 6, 6).round()
    expected = torch.distributions.Bernoulli(logits=logits).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(bernoulli_log_prob(logits, x), expected)
    extreme = bernoulli_log_prob(torch.full((1, 1, 1, 2), 500.0), torch.tensor([[[[1.0, 0.0]]]]))
    torch.testing.assert_close(extreme, torch.tensor([-500.0]))
