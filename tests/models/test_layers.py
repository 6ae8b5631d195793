"""Layers of latents against sums over all that they can be, and against their equations written out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from pipelines.recipes import load_recipe
from seqgen.core.errors import BadInput
from seqgen.models import SequentialModel, build
from seqgen.objectives import importance_weighted
from seqgen.settings import ModelConfig, build_recipe

SBN = {
    "step": "layers",
    "steps": 2,
    "latents": 2,
    "hidden": 2,
    "latent": "bernoulli",
    "prior": "learned",
    "transition": "latent",
    "encoder_hidden": 5,
    "decoder_hidden": 0,
    "posterior_hidden": 6,
}
DARN = {
    **SBN,
    "steps": 1,
    "latents": 3,
    "hidden": 3,
    "prior": "autoregressive",
    "observation": "autoregressive",
}
DLGM = {
    "step": "layers",
    "steps": 2,
    "latents": 3,
    "hidden": 4,
    "inference": "mean-field",
    "decoder_hidden": 5,
}
IMAGES = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4))).view(16, 1, 2, 2)


def member(settings: dict) -> SequentialModel:
    """With weights of order one wherever they start at zero."""
    torch.manual_seed(0)
    model = build(ModelConfig(**settings), 2, 2, 0.3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def bits(count: int) -> list[list[float]]:
    return [list(each) for each in itertools.product((0.0, 1.0), repeat=count)]


def probability(logit: float, bit: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return p if bit else 1 - p


def sbn_probability(model: SequentialModel, x: Tensor, z: list[list[float]]) -> float:
    """p(x, z) of two layers, number by number."""
    step, total, above = model.step, 1.0, [0.0, 0.0]
    for t in range(2):
        head = step.prior[t].head
        for i in range(2):
            logit = float(head.bias[i]) + sum(float(head.weight[i, j]) * above[j] for j in range(2))
            total *= probability(logit, z[t][i])
        above = z[t]
    canvas = step.decoder.canvas
    for pixel, bit in enumerate(x.flatten().tolist()):
        logit = float(canvas.bias[pixel]) + sum(float(canvas.weight[pixel, j]) * above[j] for j in range(2))
        total *= probability(logit, bit)
    return total


def darn_probability(model: SequentialModel, x: Tensor, z: list[list[float]]) -> float:
    """p(x, z) of one layer of three latents, all that is autoregressive in order."""
    step, total, (latents,) = model.step, 1.0, z
    prior, canvas, among = step.prior[0], step.decoder.canvas, step.observation.weights
    for i in range(3):
        before = sum(float(prior.weights[i, j]) * latents[j] for j in range(i))
        total *= probability(float(prior.head.bias[i]) + before, latents[i])
    pixels = x.flatten().tolist()
    for i in range(4):
        logit = float(canvas.bias[i]) + sum(float(canvas.weight[i, j]) * latents[j] for j in range(3))
        logit += sum(float(among[i, j]) * pixels[j] for j in range(i))
        total *= probability(logit, pixels[i])
    return total


@pytest.mark.parametrize(("settings", "joint"), [(SBN, sbn_probability), (DARN, darn_probability)])
def test_bits_have_the_probabilities_of_their_equations(settings, joint):
    """log p(x, z) = log p(x | z) + log p(z) - log q(z | x) + log q(z | x), and p(x) sums to 1."""
    model = member(settings)
    shape = (model.config.steps, model.config.latents)
    choices = [torch.tensor(each).view(shape) for each in bits(math.prod(shape))]
    noise = torch.stack([1.0 - z for z in choices], 1)  # below every probability, or above
    total = torch.zeros(16)
    for number, x in enumerate(IMAGES):
        found = model.infer(x.unsqueeze(0), None, noise)
        assert torch.equal(found.z, torch.stack(choices, 1))
        log_joint = found.likelihood.log_prob(x.expand(len(choices), 1, 2, 2)) + (
            found.log_ratio + found.score
        ).sum(0)
        expected = torch.tensor([joint(model, x, z.tolist()) for z in choices])
        torch.testing.assert_close(log_joint.exp(), expected, rtol=1e-4, atol=1e-7)
        total[number] = expected.sum()
        # F is that of eq. 8: the mean over q of log q - log p, summed; it bounds -log p(x)
        q = found.score.sum(0).exp()
        assert q.sum().item() == pytest.approx(1, abs=1e-5)
        free_energy = (q * (found.score.sum(0) - log_joint)).sum()
        bound = model(x.expand(len(choices), 1, 2, 2), None, noise)
        assert (q * bound.free_energy()).sum().item() == pytest.approx(free_energy.item(), abs=1e-4)
        assert free_energy > -math.log(total[number])
    assert total.sum().item() == pytest.approx(1, abs=1e-5)
    weighted = importance_weighted(model, IMAGES, None, 2000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(weighted, total.log(), atol=0.1, rtol=0)


@pytest.mark.parametrize(("settings", "joint"), [(SBN, sbn_probability), (DARN, darn_probability)])
def test_samples_are_as_frequent_as_probable(settings, joint):
    """Chi-square over the 16 images of four pixels; 15 degrees of freedom, 0.1 % is at 37.7."""
    model, many = member(settings), 20_000
    shape = (model.config.steps, model.config.latents)
    choices = [torch.tensor(each).view(shape).tolist() for each in bits(math.prod(shape))]
    expected = torch.tensor([sum(joint(model, x, z) for z in choices) for x in IMAGES]) * many
    torch.manual_seed(1)
    images = model.decode(model.noise(many, torch.Generator().manual_seed(1))).sample()
    code = (images.flatten(1) @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long()
    seen = torch.bincount(code, minlength=16)
    assert ((seen - expected).square() / expected).sum() < 37.7


def test_a_dlgm_is_its_equations():
    model, noise = member(DLGM), torch.randn(2, 3, 3)
    step = model.step
    h = torch.zeros(3, 4)
    for t in range(2):
        layer = step.transition[t]
        inner = torch.tanh(h @ layer.inner.weight.T + layer.inner.bias)
        h = inner @ layer.outer.weight.T + layer.outer.bias + noise[t] @ layer.noise.weight.T
    decoder = step.decoder
    inner = torch.tanh(torch.tanh(h) @ decoder.inner.weight.T + decoder.inner.bias)
    logits = inner @ decoder.canvas.weight.T + decoder.canvas.bias
    torch.testing.assert_close(model.sample(noise), logits.sigmoid().view(3, 1, 2, 2))


def test_a_mean_field_posterior_knows_no_other_layer_and_a_shared_one_does():
    x, noise = IMAGES[3:4], torch.randn(2, 1, 3)
    other = noise.clone()
    other[0] += 1
    for inference, same in (("mean-field", True), ("shared", False)):
        model = member({**DLGM, "inference": inference})
        one, two = (model.infer(x, None, each).posterior.mean[1] for each in (noise, other))
        assert torch.equal(one, two) == same


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"conditional": True}, "step=layers is shown no context"),
        ({"attention": "full"}, "step=layers has no such setting (only sequential)"),
        ({"read_size": 5}, "a setting of attention"),
        ({"inference": "encoder"}, "a layer's posterior has no memory"),
        ({"transition": "lstm"}, "a layer is passed once"),
        ({"transition": "latent"}, "h_t is z_t, so hidden=4 must be latents=3"),
        ({"prior": "autoregressive"}, "only for step=layers with latent=bernoulli"),
        ({"latent": "bernoulli"}, "no gradient flows through latent=bernoulli"),
    ],
)
def test_what_does_not_fit_is_refused(settings, expected):
    tree = load_recipe("quickstart", ["search=null"]).given()
    with pytest.raises(BadInput) as caught:
        build_recipe({**tree, "model": {**DLGM, **settings}}, "here")
    assert expected in str(caught.value)
