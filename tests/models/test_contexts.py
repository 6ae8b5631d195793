"""Contexts of a conditional model: none, several, in any order; and a prior that sees them."""

from __future__ import annotations

import pytest
import torch

from seqgen.models import build
from seqgen.settings import ModelConfig

ATTENTION = ("spatial-transformer", "similarity", "axis-aligned", "random", "gaussian", "full")


def example(batch: int = 4, side: int = 10, **choices):
    torch.manual_seed(1)
    windows = {} if choices.get("attention") == "full" else {"read_size": 4, "write_size": 4}
    config = ModelConfig(steps=3, latents=2, hidden=12, conditional=True, **windows, **choices)
    model = build(config, side, side, 0.2)
    x, *contexts = (torch.rand(6, batch, 1, side, side) < 0.3).float()
    return model, x, torch.cat(contexts, 1), model.noise(batch, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("context", ["mean", "attention"])
@pytest.mark.parametrize("attention", ATTENTION)
def test_the_order_of_contexts_says_nothing_and_each_of_them_something(attention: str, context: str):
    model, x, contexts, noise = example(attention=attention, context=context)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    bound = model(x, contexts, noise).free_energy()
    turned = model(x, contexts[:, [3, 0, 4, 1, 2]], noise).free_energy()
    torch.testing.assert_close(turned, bound)
    for other in range(5):
        changed = contexts.clone()
        changed[:, other] = 1 - changed[:, other]
        assert (model(x, changed, noise).free_energy() - bound).abs().min() > 0


@pytest.mark.parametrize("attention", ATTENTION)
def test_copies_of_one_context_are_that_context(attention: str):
    model, x, contexts, noise = example(attention=attention)
    one = contexts[:, :1]
    torch.testing.assert_close(
        model(x, one.expand(-1, 4, -1, -1), noise).free_energy(), model(x, one, noise).free_energy()
    )


def test_the_mean_of_glimpses_is_that_of_a_plain_loop():
    model, _, contexts, _ = example()
    step = model.step
    h = step.start(4).h
    plain = torch.stack([step.context_reader(image.unsqueeze(1), h) for image in contexts.unbind(1)]).mean(0)
    _, v = step._read_context(h, step.observe(None, contexts))
    torch.testing.assert_close(v, plain)


def test_attention_weighs_contexts_by_the_softmax_of_their_keys():
    model, _, contexts, _ = example(context="attention")
    step = model.step
    h = torch.randn(4, 12)
    image, _ = step._read_context(h, step.observe(None, contexts))
    for drawn, shown, state in zip(image, contexts, h, strict=True):
        query = step.context.query.weight @ state + step.context.query.bias
        scores = [
            (step.context.key.weight @ each.flatten() + step.context.key.bias) @ query / 8 for each in shown
        ]
        weights = [score.exp() / sum(other.exp() for other in scores) for score in scores]
        expected = sum(weight * each for weight, each in zip(weights, shown, strict=True))
        torch.testing.assert_close(drawn[0], expected)


def test_a_bend_of_control_points_moves_what_lies_between_them_bilinearly():
    model, x, _, _ = example(copy_grid=2)
    copy = model.step.writer.copy
    with torch.no_grad():
        copy.displacement.weight.zero_()
        copy.gate.weight.zero_()
        copy.gate.bias.fill_(2.0)
        torch.testing.assert_close(copy(x, torch.zeros(4, 12)), 2 * x.expand(-1, 4, -1, -1))
        copy.displacement.bias[:4] = 2 / 10  # a pixel in x, for all four corners
        moved = copy(x, torch.zeros(4, 12))
        torch.testing.assert_close(moved[..., :-1], 2 * x.expand(-1, 4, -1, -1)[..., 1:])
        copy.displacement.bias[:4] = torch.tensor([-1.0, 1.0, -1.0, 1.0])  # twice as wide about the middle
        wide = copy(x, torch.zeros(4, 12))[:, 0]
    offsets = (torch.arange(10) + 0.5) / 5 - 1
    places = (offsets + torch.linspace(-1, 1, 10) + 1) * 5 - 0.5
    left = places.floor().long()
    padded = torch.nn.functional.pad(x[:, 0], (20, 20))
    share = places - left
    expected = 2 * ((1 - share) * padded[..., left + 20] + share * padded[..., left + 21])
    torch.testing.assert_close(wide, expected)


@pytest.mark.parametrize("attention", ATTENTION)
def test_no_context_is_a_blank_one_and_every_parameter_still_has_a_gradient(attention: str):
    model, x, contexts, noise = example(attention=attention, context="attention")
    none = model(x, contexts[:, :0], noise).free_energy()
    assert none.equal(model(x, torch.zeros_like(x), noise).free_energy())
    none.sum().backward()
    # What several processes share is averaged over all parameters at every step: none may be left out.
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_several_samples_an_image_keep_their_contexts():
    model, _, contexts, _ = example()
    noise = model.noise(12, torch.Generator().manual_seed(2))
    together = model.sample(noise, contexts)
    parts = [model.sample(part, contexts) for part in noise.split(4, 1)]
    torch.testing.assert_close(together, torch.cat(parts))


def test_a_learned_prior_is_standard_normal_at_first_and_then_depends_on_the_context():
    model, x, contexts, noise = example(prior="learned")
    plain = build(model.config.model_copy(update={"prior": "standard-normal"}), 10, 10, 0.2)
    plain.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(
        model(x, contexts, noise).free_energy(), plain(x, contexts, noise).free_energy()
    )
    with torch.no_grad():
        model.step.prior.head.weight.normal_(std=0.1)
    first, second = (model.infer(x, shown, noise) for shown in (contexts[:, :1], contexts[:, 1:2]))
    assert (first.posterior.mean[0] - second.posterior.mean[0]).abs().min() > 0


def test_the_posterior_sees_the_context_at_once_where_it_is_asked_to():
    first_mean = []
    for sees in (False, True):
        model, x, contexts, noise = example(infer_from_context=sees)
        means = [
            model.infer(x, shown, noise).posterior.mean[0] for shown in (contexts[:, :1], contexts[:, 1:2])
        ]
        first_mean.append((means[0] - means[1]).abs().max().item())
    assert first_mean[0] == 0
    assert first_mean[1] > 0


@pytest.mark.parametrize(
    "setting", [{"context": "attention"}, {"infer_from_context": True}, {"copy_grid": 4}]
)
def test_settings_of_a_context_are_refused_without_one(setting: dict):
    with pytest.raises(ValueError, match="only for conditional=true"):
        ModelConfig(**setting)
