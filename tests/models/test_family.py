"""Members of the family: gradients, structure, determinism, and what a step may depend on."""

from __future__ import annotations

import itertools

import pytest
import torch

from seqgen.models import build
from seqgen.settings import ModelConfig

KINDS = [
    {"attention": attention, "canvas": canvas, "inference": inference, "conditional": conditional}
    for attention, canvas, inference, conditional in itertools.product(
        ("spatial-transformer", "gaussian", "full"),
        ("additive", "cgru"),
        ("shared", "encoder"),
        (False, True),
    )
] + [
    {
        "attention": attention,
        "windows": windows,
        "conditional": conditional,
        "error_image": attention == "error",
    }
    for attention, windows in (
        ("similarity", 1),
        ("axis-aligned", 1),
        ("error", 1),
        ("random", 1),
        ("spatial-transformer", 2),
        ("gaussian", 3),
        ("axis-aligned", 2),
        ("error", 2),
        ("random", 2),
    )
    for conditional in (False, True)
]
DRAW = {
    "attention": "gaussian",
    "canvas": "additive",
    "canvas_channels": 1,
    "observation": "identity",
    "inference": "encoder",
    "error_image": True,
    "read_size": 2,
    "write_size": 5,
}


def small(**choices) -> ModelConfig:
    windows = {} if choices.get("attention") == "full" else {"read_size": 4, "write_size": 4}
    return ModelConfig(**{"steps": 3, "latents": 2, "hidden": 12} | windows | choices)


def example(config: ModelConfig, batch: int = 3, side: int = 10):
    torch.manual_seed(1)
    model = build(config, side, side, 0.2)
    x = (torch.rand(batch, 1, side, side) < 0.3).float()
    context = (torch.rand(batch, 1, side, side) < 0.3).float() if config.conditional else None
    return model, x, context, model.noise(batch, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", [*KINDS, DRAW], ids=lambda kind: "-".join(str(v) for v in kind.values()))
def test_every_parameter_receives_a_gradient(kind):
    model, x, context, noise = example(small(**kind))
    model(x, context, noise).free_energy().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", [*KINDS, DRAW], ids=lambda kind: "-".join(str(v) for v in kind.values()))
def test_gradient_is_the_finite_difference(kind):
    model, x, context, noise = example(small(**kind))
    model, x, noise = model.double(), x.double(), noise.double()
    context = None if context is None else context.double()
    # Away from the symmetric start, so that every path carries weight.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    direction = [torch.randn_like(p) for p in model.parameters()]

    def bound() -> torch.Tensor:
        return model(x, context, noise).free_energy().sum()

    bound().backward()
    slope = sum((p.grad * d).sum() for p, d in zip(model.parameters(), direction, strict=True))
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(model.parameters(), direction, strict=True):
                p.add_(sign * 1e-6 * d)
            values.append(bound().item())
            for p, d in zip(model.parameters(), direction, strict=True):
                p.sub_(sign * 1e-6 * d)
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope.item(), rel=1e-4, abs=1e-4)


def test_only_the_last_canvas_reaches_the_likelihood():
    model, _, _, noise = example(small(attention="gaussian"))
    step, canvases = model.step, []
    state, observed = step.start(3), step.observe(None, None)
    for t, z in enumerate(noise):
        state, _ = step(t, state, z, observed)
        canvases.append(step.observation.mean(step.observation(state.canvas)))
    torch.testing.assert_close(model.sample(noise), canvases[-1])
    assert (canvases[-1] - canvases[-2]).abs().max() > 1e-3


def test_posterior_is_autoregressive():
    model, x, _, noise = example(small(attention="spatial-transformer"))
    changed = noise.clone()
    changed[0] += 1.0
    first, second = model.infer(x, None, noise), model.infer(x, None, changed)
    torch.testing.assert_close(first.posterior.mean[0], second.posterior.mean[0])
    assert (first.posterior.mean[1:] - second.posterior.mean[1:]).abs().max() > 0


def test_the_error_image_is_x_less_what_the_canvas_shows():
    model, x, _, noise = example(small(**DRAW | {"steps": 2}))
    seen = []
    model.step.reader.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    canvases = model.trace(noise, x).canvas
    start = model.step.canvas0.detach().sigmoid().view(1, 1, 1, 1)
    torch.testing.assert_close(seen[0], torch.cat([x, x - start], 1))
    torch.testing.assert_close(seen[1], torch.cat([x, x - canvases[0]], 1))


def test_conditional_model_depends_on_the_context():
    for attention in ("spatial-transformer", "gaussian", "full"):
        model, x, context, noise = example(small(attention=attention, conditional=True))
        assert not torch.equal(model.sample(noise, context), model.sample(noise, 1 - context))
        assert not torch.equal(
            model(x, context, noise).log_likelihood, model(x, 1 - context, noise).log_likelihood
        )


def test_context_must_match_the_kind_of_model():
    model, x, _, noise = example(small())
    with pytest.raises(ValueError, match="takes none"):
        model(x, x, noise)
    model, x, _, noise = example(small(conditional=True))
    with pytest.raises(ValueError, match="needs context"):
        model.sample(noise)


def test_zero_writes_leave_an_additive_canvas_unchanged():
    model, x, _, noise = example(small(canvas="additive"))
    with torch.no_grad():
        model.step.writer.sprite.weight.zero_()
        model.step.writer.sprite.bias.zero_()
    canvases = model.trace(noise, x).canvas
    torch.testing.assert_close(canvases, canvases[:1].expand_as(canvases))


def test_one_step_is_a_plain_vae():
    model, x, _, noise = example(small(steps=1, attention="full", canvas="additive"))
    step = model.step
    state = step.start(len(x))
    parameters, _ = step.posterior(x.flatten(1), state.h, ())
    mean, log_std = parameters.chunk(2, 1)
    z = mean + log_std.exp() * noise[0]
    h, _ = step.transition((z,), state.h, state.memory)
    logits = step.observation(state.canvas + step.writer(h))
    log_likelihood = torch.distributions.Bernoulli(logits=logits).log_prob(x).sum((1, 2, 3))
    bound = model(x, None, noise)
    torch.testing.assert_close(bound.log_likelihood, log_likelihood)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(bound.kl[0], kl.sum(1))


@pytest.mark.parametrize("kind", [*KINDS[::5], *KINDS[24:], DRAW], ids=str)
def test_trace_ends_in_what_sample_and_infer_give(kind):
    model, x, context, noise = example(small(**kind))
    torch.testing.assert_close(model.trace(noise, None, context).canvas[-1], model.sample(noise, context))
    watched = model.trace(noise, x, context)
    torch.testing.assert_close(watched.canvas[-1], model.infer(x, context, noise).likelihood.mean)
    torch.testing.assert_close(watched.kl, model(x, context, noise).kl)
    if kind["attention"] == "full":
        assert watched.read is watched.write is watched.context_read is None
    else:
        assert watched.read.shape == watched.write.shape == (3, 3, kind.get("windows", 1), 4, 2)
        assert (watched.context_read is None) == (context is None)


def test_same_seed_same_bits():
    first, second = example(small()), example(small())
    assert torch.equal(first[0](*first[1:]).log_likelihood, second[0](*second[1:]).log_likelihood)


def test_a_setting_of_a_kind_that_was_not_chosen_is_refused():
    with pytest.raises(ValueError, match="attention=full has no such setting"):
        ModelConfig(attention="full", read_size=3)
