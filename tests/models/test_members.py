"""What every member of the family owes whoever runs it, for those whose step is none of sequential's."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from benchmarks.pairs import small
from benchmarks.small_sets import independent_pixels, learned, small_split
from pipelines.evaluate.family import MEMBERS
from pipelines.recipes import choose
from seqgen.models import SequentialModel, build, load_model, save_model
from seqgen.settings import ModelConfig
from seqgen.training.memory import training_bytes

SIDE, BATCH, STEPS = 12, 4, 5
CONVOLUTIONAL = {"step": "convolutional", "latents": 2, "hidden": 5, "canvas_channels": 3}
COMPOSITED = {"step": "composited", "latents": 2, "hidden": 7, "sprite_size": 5}
LATENTS = {"convolutional": 2 * 3 * 3, "composited": 3 + 2}

members = pytest.mark.parametrize("member", [CONVOLUTIONAL, COMPOSITED], ids=lambda member: member["step"])


def example(member: dict) -> tuple[SequentialModel, Tensor, Tensor]:
    """A model away from its symmetric start, so that every path carries weight; images; noise."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    model = build(ModelConfig(steps=STEPS, **member), SIDE, SIDE, 0.2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = (torch.rand(BATCH, 1, SIDE, SIDE, generator=generator) < 0.3).float()
    return model, x, model.noise(BATCH, generator)


@members
def test_shapes(member: dict):
    model, x, noise = example(member)
    latents = LATENTS[member["step"]]
    assert model.sizes.latents == latents
    assert noise.shape == (STEPS, BATCH, latents)
    bound = model(x, None, noise)
    assert bound.kl.shape == (STEPS, BATCH)
    assert (bound.kl > 0).all()
    assert bound.log_likelihood.shape == (BATCH,)
    assert bound.score is None
    inferred = model.infer(x, None, noise)
    assert isinstance(inferred.posterior, Normal)
    assert inferred.z.shape == inferred.posterior.mean.shape == noise.shape
    samples = model.sample(noise)
    assert samples.shape == (BATCH, 1, SIDE, SIDE)
    assert ((samples > 0) & (samples < 1)).all()
    with pytest.raises(ValueError, match="takes no context"):
        model(x, x, noise)


@members
def test_the_kl_is_the_mean_of_the_log_ratio(member: dict):
    """By 10,000 draws, within four standard errors, at every step."""
    model, x, _ = example(member)
    noise = model.noise(10_000, torch.Generator().manual_seed(2))
    with torch.no_grad():
        difference = model(x[:1], None, noise).kl + model.infer(x[:1], None, noise).log_ratio
    assert (difference.mean(1).abs() < 4 * difference.std(1) / 100).all()


@members
def test_every_parameter_receives_the_finite_differences_gradient(member: dict):
    model, x, noise = example(member)
    model, x, noise = model.double(), x.double(), noise.double()
    model(x, None, noise).free_energy().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    direction = [torch.randn_like(parameter) for parameter in model.parameters()]
    slope = sum((p.grad * d).sum() for p, d in zip(model.parameters(), direction, strict=True))
    values = []
    for sign in (1, -1):
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for parameter, d in zip(moved.parameters(), direction, strict=True):
                parameter.add_(sign * 1e-6 * d)
            values.append(moved(x, None, noise).free_energy().sum().item())
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope.item(), rel=1e-4, abs=1e-4)


@members
def test_k_samples_an_image_are_k_runs(member: dict):
    model, x, _ = example(member)
    noise = model.noise(3 * BATCH, torch.Generator().manual_seed(5))
    together = model.infer(x, None, noise)
    for sample in range(3):
        mine = slice(BATCH * sample, BATCH * (sample + 1))
        alone = model.infer(x, None, noise[:, mine].contiguous())
        torch.testing.assert_close(together.z[:, mine], alone.z, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.log_ratio[:, mine], alone.log_ratio, rtol=1e-4, atol=1e-4)


@members
def test_the_same_noise_gives_the_same_bits_and_recomputing_the_same_gradient(member: dict):
    results = []
    for recompute in (0, 0, 2):
        model, x, noise = example(member)
        model.recompute = recompute
        bound = model(x, None, noise).free_energy()
        bound.sum().backward()
        results.append([bound.detach(), *(parameter.grad for parameter in model.parameters())])
    for first, again, recomputed in zip(*results, strict=True):
        assert torch.equal(first, again)
        assert torch.equal(first, recomputed)


@members
def test_a_trace_ends_in_what_sample_and_infer_give(member: dict):
    model, x, noise = example(member)
    prior, posterior = model.trace(noise), model.trace(noise, x)
    torch.testing.assert_close(prior.canvas[-1], model.sample(noise))
    torch.testing.assert_close(posterior.canvas[-1], model.infer(x, None, noise).likelihood.mean)
    torch.testing.assert_close(posterior.kl, model(x, None, noise).kl)
    if member is CONVOLUTIONAL:
        assert prior.write is posterior.write is posterior.read is None
    else:
        assert prior.read is None
        assert prior.write.shape == posterior.read.shape == (STEPS, BATCH, 1, 4, 2)


@members
def test_what_a_sample_was_inferred_from_draws_it_again(member: dict):
    """By the prior, from the noise that `encode` finds."""
    model, x, noise = example(member)
    again = model.decode(model.encode(x, None, noise)).mean
    torch.testing.assert_close(again, model.infer(x, None, noise).likelihood.mean, rtol=1e-4, atol=1e-4)


@members
def test_saved_and_loaded_gives_the_same_bound(member: dict, tmp_path: Path):
    model, x, noise = example(member)
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again.sizes == model.sizes
    assert torch.equal(again(x, None, noise).free_energy(), model(x, None, noise).free_energy())


@members
def test_memory_is_estimated(member: dict):
    config = ModelConfig(steps=20, **member)
    needed = training_bytes(config, SIDE, 100)
    assert training_bytes(config, SIDE, 200) > 1.8 * needed
    assert training_bytes(config, 2 * SIDE, 100) > 2 * needed
    assert training_bytes(config, SIDE, 100, recompute=4) < 0.5 * needed


@pytest.mark.slow
@members
def test_a_compiled_step_gives_the_same(member: dict):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model, x, noise = example(member)
    results = []
    for compiled in (False, True):
        model.compile_step(compiled)
        model.zero_grad()
        bound = model(x, None, noise).free_energy()
        bound.sum().backward()
        results.append([bound.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    assert len(torch._dynamo.utils.counters["graph_break"]) == 0


LONGER = {"dlgm": 20, "sbn": 60}  # epochs: two layers, and a gradient of the score function, take their time


@pytest.mark.slow
@pytest.mark.parametrize(
    "member", sorted(MEMBERS.keys() - {"air"})
)  # its own: tests/training/test_counting_learned.py
def test_it_learns_real_digits(member: str):
    """As its recipe says, but for seconds: far below what independent pixels pay."""
    recipe = small(member)
    epochs = LONGER.get(member, recipe.train.epochs)
    recipe = choose(recipe, {"train.epochs": epochs, "train.evaluate_every": epochs}, member)
    split = small_split(recipe)
    assert learned(recipe, split) < 0.8 * independent_pixels(split)
