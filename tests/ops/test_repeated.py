"""A run over many steps: its gathered gradient is the sum of the steps' gradients, in float32 and under autocast."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from seqgen import native, ops
from seqgen.ops.products import inside_a_run

STEPS, BATCH = 5, 6


@pytest.fixture(params=["all", "none"], autouse=True)
def _products(request):
    with native.using(request.param):
        yield


def leaves(outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    return torch.randn(outputs, inputs, requires_grad=True), torch.randn(outputs, requires_grad=True)


def test_gradients_are_the_sum_over_the_steps():
    torch.manual_seed(0)
    weight, bias = leaves(4, 8)
    start, results = torch.randn(BATCH, 8), []
    for gathered in (True, False):
        weight.grad, bias.grad, h, total = None, None, start, torch.zeros(())
        if gathered:
            with ops.Repeated().inside():
                for _ in range(STEPS):
                    y = ops.linear((h[:, :2], h[:, 2:]), weight, bias)
                    h, total = torch.cat([y, h], 1)[:, :8].tanh(), total + y.square().sum()
        else:
            for _ in range(STEPS):
                y = functional.linear(h, weight, bias)
                h, total = torch.cat([y, h], 1)[:, :8].tanh(), total + y.square().sum()
        total.backward()
        results.append([total.detach(), weight.grad, bias.grad])
    torch.testing.assert_close(results[0], results[1])


def test_a_run_that_is_not_used_leaves_no_gradient_and_the_next_is_clean():
    weight, bias = leaves(2, 3)
    with ops.Repeated().inside():
        assert inside_a_run()
    assert not inside_a_run()
    ops.linear((torch.randn(4, 3),), weight, bias).sum().backward()
    torch.testing.assert_close(bias.grad, torch.full((2,), 4.0))


def test_another_thread_is_not_inside():
    with ThreadPoolExecutor(1) as pool, ops.Repeated().inside():
        assert inside_a_run()
        assert not pool.submit(inside_a_run).result()


@pytest.mark.parametrize("rows", [1, 14, 1024], ids=["each step", "now and then", "at the end"])
def test_under_autocast_the_product_alone_is_in_half_precision(rows: int, monkeypatch):
    monkeypatch.setattr("seqgen.ops.products._ROWS", rows, raising=True)
    torch.manual_seed(1)
    weight, bias = leaves(32, 64)
    x = torch.randn(10, 64)
    with torch.autocast("cpu", torch.bfloat16), ops.Repeated().inside():
        y = ops.linear((x,), weight, bias) + ops.linear((2 * x,), weight, bias)
    assert y.dtype == torch.float32
    y.square().sum().backward()
    half, weight.grad = weight.grad, None
    (ops.linear((x,), weight, bias) + ops.linear((2 * x,), weight, bias)).square().sum().backward()
    assert half.dtype == torch.float32
    error = (half - weight.grad).norm() / weight.grad.norm()
    assert 0 < error < 0.02


def test_a_backward_that_does_not_ask_for_the_weights_leaves_nothing_behind():
    weight, bias = leaves(2, 3)
    x = torch.randn(4, 3, requires_grad=True)
    with ops.Repeated().inside():
        parts = ops.linear((x,), weight, bias), ops.linear((2 * x,), weight, bias)
        loss = sum(parts).square().sum()
    torch.autograd.grad(loss, x, retain_graph=True)
    loss.backward()
    gathered, weight.grad = weight.grad, None
    (ops.linear((x,), weight, bias) + ops.linear((2 * x,), weight, bias)).square().sum().backward()
    torch.testing.assert_close(gathered, weight.grad)


def test_layers_may_share_their_weights():
    """With other biases, and as the same layer twice in a step."""
    weight, one = leaves(3, 3)
    other, x = torch.randn(3, requires_grad=True), torch.randn(4, 3)
    results = []
    for gathered in (True, False):
        for leaf in (weight, one, other):
            leaf.grad = None
        with ops.Repeated().inside() if gathered else contextlib.nullcontext():
            y = ops.linear((ops.linear((x,), weight, one).tanh(),), weight, other)
        y.square().sum().backward()
        results.append([y.detach(), weight.grad, one.grad, other.grad])
    torch.testing.assert_close(results[0], results[1])
