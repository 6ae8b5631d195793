"""StepLinear: its gathered gradient is the sum of the steps' gradients, in float32 and under autocast."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from seqgen.models import build
from seqgen.models import linear as module
from seqgen.models.linear import OneRun, StepLinear
from seqgen.settings import ModelConfig

STEPS, BATCH = 5, 6


@pytest.mark.parametrize("fixed", [0, 3])
def test_gradients_are_the_sum_over_the_steps(fixed: int):
    torch.manual_seed(0)
    layer = StepLinear(8, 4, fixed)
    given = torch.randn(BATCH, fixed, requires_grad=True)
    start = torch.randn(BATCH, 8 - fixed)
    results = []
    for gathered in (True, False):
        layer.zero_grad()
        given.grad, h, total = None, start, torch.zeros(())
        if gathered:
            with OneRun(layer).inside():
                share = layer.share(given) if fixed else None
                for _ in range(STEPS):
                    y = layer(h[:, :2], h[:, 2:], share=share)
                    h, total = torch.cat([y, h], 1)[:, : 8 - fixed].tanh(), total + y.square().sum()
        else:
            for _ in range(STEPS):
                y = functional.linear(torch.cat([given, h], 1), layer.weight, layer.bias)
                h, total = torch.cat([y, h], 1)[:, : 8 - fixed].tanh(), total + y.square().sum()
        total.backward()
        results.append([total.detach(), layer.weight.grad, layer.bias.grad, *([given.grad] if fixed else [])])
    torch.testing.assert_close(results[0], results[1])


def test_a_run_that_is_not_used_leaves_no_gradient_and_the_next_is_clean():
    layer = StepLinear(3, 2)
    with OneRun(layer).inside():
        pass
    x = torch.randn(4, 3)
    layer(x).sum().backward()
    torch.testing.assert_close(layer.bias.grad, torch.full((2,), 4.0))


@pytest.mark.parametrize("rows", [1, 14, 1024], ids=["each step", "now and then", "at the end"])
def test_under_autocast_the_product_alone_is_in_half_precision(rows: int, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", rows)
    torch.manual_seed(1)
    layer, x = StepLinear(64, 32), torch.randn(10, 64)
    with torch.autocast("cpu", torch.bfloat16):
        gradient = OneRun(layer)
        with gradient.inside():
            y = layer(x) + layer(2 * x)
    assert y.dtype == torch.float32
    y.square().sum().backward()
    half, layer.weight.grad = layer.weight.grad, None
    (layer(x) + layer(2 * x)).square().sum().backward()
    assert half.dtype == torch.float32
    error = (half - layer.weight.grad).norm() / layer.weight.grad.norm()
    assert 0 < error < 0.02


@pytest.mark.parametrize(
    "kind",
    [{}, {"attention": "gaussian", "inference": "encoder", "error_image": True}, {"attention": "full"}],
    ids=str,
)
@pytest.mark.parametrize("segment", [1, 2, 3, 7])
def test_recomputing_changes_no_bit_of_the_gradient(kind: dict, segment: int):
    config = ModelConfig(steps=7, latents=3, hidden=12, read_size=4, write_size=4, conditional=True, **kind)
    torch.manual_seed(2)
    model = build(config, 9, 9)
    x, context = (torch.rand(2, 5, 1, 9, 9) < 0.4).float()
    noise = torch.randn(model.noise_shape(5))
    results = []
    for model.recompute in (0, segment):
        model.zero_grad()
        bound = model(x, context, noise).free_energy()
        bound.sum().backward()
        results.append([bound.detach(), *(p.grad for p in model.parameters())])
    for kept, recomputed in zip(*results, strict=True):
        assert torch.equal(kept, recomputed)


def test_recomputing_keeps_less():
    """Counted, not timed: bytes that autograd saves for the backward pass."""
    model = build(ModelConfig(steps=16, latents=3, hidden=12, read_size=4, write_size=4), 12, 12)
    x, noise = torch.rand(8, 1, 12, 12).round(), torch.randn(model.noise_shape(8))

    def kept(recompute: int) -> int:
        model.recompute, alive = recompute, {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            alive[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(x, None, noise).free_energy().sum()
        del loss
        return sum(alive.values())

    assert kept(4) < kept(0) / 2


def test_a_backward_that_does_not_ask_for_the_weights_leaves_nothing_behind():
    layer, x = StepLinear(3, 2), torch.randn(4, 3, requires_grad=True)
    with OneRun(layer).inside():
        loss = (layer(x) + layer(2 * x)).square().sum()
    torch.autograd.grad(loss, x, retain_graph=True)
    loss.backward()
    gathered, layer.weight.grad = layer.weight.grad, None
    (layer(x) + layer(2 * x)).square().sum().backward()
    torch.testing.assert_close(gathered, layer.weight.grad)


def test_a_copy_of_a_compiled_model_runs_its_own_weights():
    model = build(ModelConfig(steps=2, latents=2, hidden=6, read_size=3, write_size=3), 6, 6)
    model.compile_step()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.5)
    x, noise = torch.rand(3, 1, 6, 6).round(), torch.randn(model.noise_shape(3))
    plain = build(model.config, 6, 6)
    plain.load_state_dict(twin.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(twin(x, None, noise), plain(x, None, noise))


def test_noise_that_is_no_multiple_of_the_images_is_refused():
    model = build(ModelConfig(steps=2, latents=2, hidden=6, read_size=3, write_size=3), 6, 6)
    with pytest.raises(ValueError, match="noise for 5 images, which is no multiple of the 2 given"):
        model(torch.zeros(2, 1, 6, 6), None, torch.randn(model.noise_shape(5)))
