"""The way between two images: its ends, the circle that it is on, and the noise that makes z."""

from __future__ import annotations

import math

import pytest
import torch

from seqgen.core.errors import BadInput
from seqgen.evaluation import interpolation
from seqgen.evaluation.bounds import HeldOut
from seqgen.models import build
from seqgen.models.contracts import Latents, Sizes
from seqgen.settings import ModelConfig


def some_model(prior: str = "standard-normal", conditional: bool = False):
    torch.manual_seed(1)
    config = ModelConfig(steps=3, latents=2, hidden=8, attention="full", prior=prior, conditional=conditional)
    model = build(config, 4, 4, 0.4).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def some_set(contexts: int = 0) -> HeldOut:
    x = torch.randint(0, 2, (12, 1, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    context = torch.cat([x.roll(3 * (n + 1), 0) for n in range(contexts)], 1) if contexts else None
    return HeldOut(x, context, torch.arange(12) % 3)


@pytest.mark.parametrize("prior", ["standard-normal", "learned"])
@pytest.mark.parametrize("conditional", [False, True])
@torch.no_grad()
def test_what_is_encoded_is_decoded_to_the_same_likelihood(prior, conditional):
    model, x = some_model(prior, conditional), some_set().x.float()
    context = x.flip(0) if conditional else None
    noise = model.noise(len(x), torch.Generator().manual_seed(2))
    inferred = model.infer(x, context, noise)
    encoded = model.encode(x, context, noise)
    decoded = model.decode(encoded, context)
    torch.testing.assert_close(decoded.mean, inferred.likelihood.mean, atol=1e-5, rtol=1e-4)
    assert encoded.equal(inferred.z) == (prior == "standard-normal")


def test_latents_that_do_not_tell_their_noise_say_so():
    with pytest.raises(BadInput, match="Latents: z does not tell its noise"):
        Latents(None, Sizes(4, 4, 1, 2, 8, 1, 0.5)).prior_noise((), torch.zeros(1, 1, 2))


def test_a_way_turns_at_an_even_pace_and_keeps_its_length():
    first = torch.tensor([[3.0, 0], [0, 4]]).view(2, 1, 2)  # one image, T = K = 2: the vector (3, 0, 0, 4)
    turned = torch.tensor([[0.0, 5], [0, 0]]).view(2, 1, 2)  # at a right angle, as long
    for share in (0.0, 0.25, 0.5, 0.8, 1.0):
        angle = share * math.pi / 2
        expected = math.cos(angle) * first + math.sin(angle) * turned
        torch.testing.assert_close(interpolation.spherical(first, turned, share), expected)


def test_each_image_has_its_own_angle_and_the_same_ends_stay_where_they_are():
    first, second = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    second[:, 0] = first[:, 0]
    for share in (0.0, 0.3, 1.0):
        together = interpolation.spherical(first, second, share)
        one_by_one = [
            interpolation.spherical(first[:, [n]], second[:, [n]], share) for n in range(first.shape[1])
        ]
        torch.testing.assert_close(together, torch.cat(one_by_one, 1))
        torch.testing.assert_close(together[:, 0], first[:, 0])
    torch.testing.assert_close(interpolation.spherical(first, second, 0.0), first)
    torch.testing.assert_close(interpolation.spherical(first, second, 1.0), second)


def test_a_walk_begins_and_ends_at_the_two_posteriors():
    model, ends = some_model("learned"), interpolation.pick_ends(some_set(), 4, 0)
    walk = interpolation.walk(model, ends, 0)
    for share, noise in ((0.0, walk.first), (1.0, walk.second)):
        with torch.no_grad():
            torch.testing.assert_close(walk.at(share).mean, model.decode(noise, None).mean)
    middle = walk.at(0.5).mean
    assert not torch.allclose(middle, walk.at(0.0).mean, atol=1e-3)


def test_no_image_is_in_two_pairs_and_with_contexts_a_pair_is_of_one_concept():
    held_out = some_set()
    ends = interpolation.pick_ends(held_out, 100, 0)
    assert len(ends.first) == 6
    shown = torch.cat([ends.first, ends.second]).flatten(1)
    assert len(shown.unique(dim=0)) == len(held_out.x.flatten(1).unique(dim=0))

    held_out = some_set(contexts=2)
    ends = interpolation.pick_ends(held_out, 5, 0)
    assert ends.first.equal(held_out.x[ends.chosen])
    assert ends.context.equal(held_out.context[ends.chosen][:, :1])
    assert ends.second.equal(held_out.context[ends.chosen][:, 1:])
    with pytest.raises(BadInput, match=r"two images; raise evaluate\.images"):
        interpolation.pick_ends(some_set().take(torch.arange(1)), 1, 0)


def test_mixed_pixels_are_one_ends_or_the_others():
    ends = interpolation.pick_ends(some_set(), 6, 0)
    mixed = interpolation.mixed_pixels(ends, 0)
    assert ((mixed == ends.first) | (mixed == ends.second)).all()
    differ = ends.first != ends.second
    share = (mixed == ends.first)[differ].float().mean().item()
    assert abs(share - 0.5) < 4 * (0.25 / differ.sum().item()) ** 0.5
