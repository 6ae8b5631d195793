"""The family against the textbook: same weights, images and noise give the same bound and gradients."""

from __future__ import annotations

import statistics

import pytest
import torch

from benchmarks.specs import importance_noise
from benchmarks.textbook import textbook
from seqgen.models import SequentialModel, build
from seqgen.objectives import importance_weighted
from seqgen.settings import ModelConfig

DRAW = ModelConfig(
    steps=4,
    latents=5,
    hidden=24,
    attention="gaussian",
    read_size=3,
    write_size=5,
    canvas="additive",
    canvas_channels=1,
    observation="identity",
    inference="encoder",
    error_image=True,
)
SGM = ModelConfig(steps=4, latents=5, hidden=24, read_size=6, write_size=7, posterior_hidden=16)
QUICKSTART = ModelConfig(
    steps=4,
    latents=5,
    hidden=24,
    read_size=6,
    write_size=7,
    canvas="additive",
    inference="encoder",
    error_image=True,
)
ONE_SHOT = ModelConfig(
    steps=4,
    latents=5,
    hidden=24,
    read_size=6,
    write_size=7,
    samples=2,
    inference="encoder",
    error_image=True,
    conditional=True,
    infer_from_context=True,
    copy_grid=3,
)
MEMBERS = {
    "draw": DRAW,
    "sgm": SGM,
    "sgm given a context": SGM.model_copy(update={"conditional": True}),
    "quickstart": QUICKSTART,
    "quickstart given a context": QUICKSTART.model_copy(update={"conditional": True}),
    "one-shot": ONE_SHOT,
}


def _contexts(config: ModelConfig) -> torch.Tensor | None:
    """Three contexts an image for the member that is made for several."""
    count = 3 if config.infer_from_context else 1
    return (torch.rand(6, count, 20, 20) < 0.2).float() if config.conditional else None


def _moved(config: ModelConfig) -> SequentialModel:
    """A model away from a start at which windows are whole and gates shut."""
    torch.manual_seed(1)
    model = build(config, 20, 20, 0.2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("config", MEMBERS.values(), ids=MEMBERS)
def test_the_bound_and_its_gradients_are_the_textbooks(config: ModelConfig):
    model = _moved(config)
    plain = textbook(model)
    assert sum(p.numel() for p in plain.parameters()) >= sum(p.numel() for p in model.parameters())
    x = (torch.rand(6, 1, 20, 20) < 0.2).float()
    context = _contexts(config)
    noise = model.noise(6, torch.Generator().manual_seed(3))

    bound, expected = model(x, context, noise).free_energy(), plain(x, noise, context)
    torch.testing.assert_close(bound, expected, rtol=1e-5, atol=1e-3)
    bound.sum().backward()
    expected.sum().backward()
    inputs, step = plain.decoder.input_size, model.step
    decoder, head = step.transition.cell.linear, step.posterior.head
    pairs = [
        (step.transition.h0.grad, plain.start["h0"].grad),
        (step.canvas0.grad, plain.start["canvas0"].grad),
        (decoder.weight.grad[:, :inputs], plain.decoder.weight_ih.grad),
        (decoder.weight.grad[:, inputs:], plain.decoder.weight_hh.grad),
        (head.weight.grad[: config.latents], plain.mean.weight.grad),
        (head.weight.grad[config.latents :], plain.log_std.weight.grad),
    ]
    reader, writer = step.reader.window, step.writer.window
    pairs.append((getattr(reader, "head", reader).weight.grad, plain.read_head.weight.grad))
    pairs.append((getattr(writer, "head", writer).weight.grad, plain.write_head.weight.grad))
    if config.canvas == "cgru":
        channels = config.canvas_channels
        pairs.append((step.canvas.gates.weight.grad[:channels], plain.update.weight.grad))
        pairs.append((step.canvas.candidate.weight.grad, plain.candidate.weight.grad))
    if config.observation == "conv":
        pairs.append((step.observation.conv.weight.grad, plain.observation.weight.grad))
    if config.conditional and config.copy_grid:
        pairs.append((step.writer.copy.gate.weight.grad, plain.gate.weight.grad))
        pairs.append((step.writer.copy.displacement.weight.grad, plain.displacement.weight.grad))
    if config.conditional:
        pairs.append((step.context_reader.window.weight.grad, plain.context_head.weight.grad))
    for ours, theirs in pairs:
        assert float(theirs.abs().max()) > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("config", MEMBERS.values(), ids=MEMBERS)
def test_samples_and_importance_weights_are_the_textbooks(config: ModelConfig):
    model = _moved(config)
    plain = textbook(model)
    x = (torch.rand(6, 1, 20, 20) < 0.2).float()
    context = _contexts(config)
    noise = model.noise(6, torch.Generator().manual_seed(3))

    with torch.no_grad():
        drawn, expected = model.sample(noise, context), plain.sample(noise, context)
    assert expected.shape == (6, 1, 20, 20)
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-5)

    noise = importance_noise(model, 6, 3, seed=2)
    with torch.no_grad():
        bounds = torch.stack([plain(x, part, context) for part in noise])
        theirs = plain.importance_bound(x, noise, context)
        ours = importance_weighted(model, x, context, 3, torch.Generator().manual_seed(2))
    assert float((bounds.mean(0) + theirs).abs().max()) > 0.1  # not the free energy again
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("config", MEMBERS.values(), ids=MEMBERS)
def test_fifty_steps_of_training_are_the_textbooks(config: ModelConfig):
    """The golden: the same start, images and noise, each with its own gradients and optimiser, give the same losses."""
    torch.manual_seed(2)
    model = build(config, 20, 20, 0.2)
    plain = textbook(model)
    for cell in plain.modules():
        if isinstance(cell, torch.nn.LSTMCell):  # its second bias would make the first one's rate twice ours
            cell.bias_hh.requires_grad_(False)
    trained: list[tuple[torch.nn.Module, torch.optim.Optimizer, list[float]]] = [
        (model, torch.optim.Adam(model.parameters(), lr=1e-3, fused=True), []),
        (plain, torch.optim.Adam(plain.parameters(), lr=1e-3), []),
    ]
    noise_of = torch.Generator().manual_seed(3)
    for _ in range(50):
        x = (torch.rand(6, 1, 20, 20) < 0.2).float()
        context = _contexts(config)
        noise = model.noise(6, noise_of)
        for module, optimiser, losses in trained:
            bound = model(x, context, noise).free_energy() if module is model else plain(x, noise, context)
            optimiser.zero_grad()
            bound.mean().backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 10.0)
            optimiser.step()
            losses.append(float(bound.detach().mean()))
    (_, _, ours), (_, _, theirs) = trained
    assert statistics.fmean(theirs[-10:]) < statistics.fmean(theirs[:10]) - 1
    assert ours == pytest.approx(theirs, rel=1e-4)
