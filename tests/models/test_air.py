"""Attend, infer, repeat: its latents, its windows, its gradients and its bound, each against something else."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

from seqgen.models import SequentialModel, build, load_model, save_model
from seqgen.models.contracts import Sizes
from seqgen.models.steps.air import AirLatents
from seqgen.objectives import Batch, importance_weighted
from seqgen.settings import ModelConfig
from seqgen.settings.catalogue import AirSettings
from seqgen.settings.kinds import find
from seqgen.training.memory import training_bytes


def small(side: int = 10, mean: float = 0.2, **changes) -> SequentialModel:
    torch.manual_seed(4)
    sizes = {"steps": 3, "latents": 2, "hidden": 12, "object_size": 4, "object_hidden": 8}
    model = build(ModelConfig(step="air", **sizes | changes), side, side, mean)
    with torch.no_grad():  # away from the start, where a sprite is hardly seen
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def noise_of(model: SequentialModel, batch: int, seed: int = 5) -> Tensor:
    return model.noise(batch, torch.Generator().manual_seed(seed))


def images(batch: int, side: int = 10) -> Tensor:
    return (torch.rand(batch, 1, side, side, generator=torch.Generator().manual_seed(1)) < 0.3).float()


@pytest.fixture
def by_hand():
    """Latents with p = 0.3, and of T = 3 steps every chain there is: z, q and p, [3,4,...]."""
    latents = AirLatents(AirSettings(presence=0.3), Sizes(8, 8, 3, 2, 7, 1, 0.5))
    present = torch.tensor([[0.0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]])[..., None]
    before = torch.cat([torch.ones(1, 4, 1), present[:-1]])
    z = present * torch.cat([torch.ones(3, 4, 1), torch.randn(3, 4, 5)], 2)
    q = (torch.randn(3, 4, 1), torch.randn(3, 4, 5), 0.5 * torch.randn(3, 4, 5))
    return latents, z, q, (before,)


def test_the_divergences_are_those_of_the_distributions(by_hand):
    latents, z, q, p = by_hand
    presence, before = Bernoulli(logits=q[0][..., 0]), p[0][..., 0]
    prior, q_object, p_object = Bernoulli(0.3), Normal(q[1], q[2].exp()), Normal(0.0, 1.0)
    present, rest = z[..., 0], z[..., 1:]
    score = before * presence.log_prob(present)
    kl = before * kl_divergence(presence, prior) + present * kl_divergence(q_object, p_object).sum(-1)
    ratio = before * prior.log_prob(present) - score
    ratio = ratio + present * (p_object.log_prob(rest) - q_object.log_prob(rest)).sum(-1)
    torch.testing.assert_close(latents.kl(z, q, p), kl)
    torch.testing.assert_close(latents.log_ratio(z, q, p), ratio)
    torch.testing.assert_close(latents.score(z, q), score)
    assert latents.counts(z).tolist() == [0, 1, 2, 3]
    assert latents.counts(z).dtype == torch.int64


@pytest.mark.parametrize("of_x", [True, False], ids=["posterior", "prior"])
def test_nothing_follows_a_stop(of_x: bool):
    model, noise = small(), noise_of(small(), 2)
    noise[:, :, 0] = torch.tensor([[0.0, 0], [1, 0], [0, 1]])  # 0 is present, 1 is not, if it is asked at all
    z, states = run(model, images(2) if of_x else None, noise)
    assert z[..., 0].T.tolist() == [[1, 0, 0], [1, 1, 0]]
    assert (z[1:, 0] == 0).all()
    assert torch.equal(states[0].canvas[0], states[2].canvas[0])
    assert not torch.equal(states[0].canvas[1], states[2].canvas[1])
    if of_x:
        bound = model(images(2), None, noise)
        assert (bound.kl[:2, 0] > 0).all()
        assert bound.kl[2, 0] == bound.score[2, 0] == 0


def run(model: SequentialModel, x: Tensor | None, noise: Tensor):
    """z of all steps [T,B,K], and the state after each."""
    step, states, drawn = model.step, [model.step.start(noise.shape[1])], []
    for t, noise_t in enumerate(noise):
        state, left = step(t, states[-1], noise_t, step.observe(x, None))
        states.append(state)
        drawn.append(left)
    return torch.stack([left.z for left in drawn]), states[1:]


def test_the_prior_counts_as_a_geometric_distribution_that_is_cut_off():
    model = small(presence=0.3)
    z, _ = run(model, None, noise_of(model, 20_000))
    found = torch.bincount(model.step.latents.counts(z), minlength=4) / 20_000
    torch.testing.assert_close(found, torch.tensor([0.7, 0.21, 0.063, 0.027]), atol=0.012, rtol=0)


def where_of(model: SequentialModel, side: float, left: int, top: int) -> Tensor:
    """where of a window of `side` of a 20 x 20 image, whose upper left pixel is (left, top)."""
    settings = model.config.of("step")
    centre = [(corner + 10 * side) / 10 - 1 for corner in (left, top)]
    scale = (math.log(side) - math.log(settings.object_scale)) / settings.scale_std
    return torch.tensor([[scale, *(c / settings.place_std for c in centre)]])


@pytest.mark.parametrize("corner", [(0, 0), (3, 7), (10, 10), (-4, 2)])
def test_what_is_written_is_read_again_and_lies_in_its_window(corner: tuple[int, int]):
    """A window of as many pixels as the sprite, on whole pixels, copies it; what leaves the image is lost."""
    model = small(20, object_size=10)
    step, (left, top) = model.step, corner
    sprite = torch.rand(1, 1, 10, 10) + 0.5
    step.sprite = Fixed(sprite.expm1().log().flatten(1))  # what softplus maps to it
    z = torch.cat([torch.ones(1, 1), where_of(model, 0.5, left, top), torch.zeros(1, 2)], 1)
    written = step.write(z)[0, 0]
    expected = torch.zeros(30, 30)
    expected[5 + top : 15 + top, 5 + left : 15 + left] = sprite[0, 0]
    torch.testing.assert_close(written, expected[5:25, 5:25], atol=1e-4, rtol=0)
    seen = step.read(written[None, None], z[:, 1:4])[0, 0]
    inside = expected.clone()
    inside[:5] = inside[:, :5] = inside[25:] = inside[:, 25:] = 0
    torch.testing.assert_close(seen, inside[5 + top : 15 + top, 5 + left : 15 + left], atol=1e-4, rtol=0)
    after = step.start(1)._replace(z=z)
    corners = step.windows(step.start(1), after, torch.empty(0), step.observe(written[None, None], None))
    square = [[left, top], [left + 10, top], [left + 10, top + 10], [left, top + 10]]
    torch.testing.assert_close(
        corners.write, torch.tensor([[square]], dtype=torch.float32), atol=1e-4, rtol=0
    )
    assert torch.equal(corners.read, corners.write)


class Fixed(torch.nn.Module):
    """The same whatever is given."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, _: Tensor) -> Tensor:
        return self.value


def test_the_window_of_an_absent_object_is_a_point():
    model, noise = small(), noise_of(small(), 4)
    noise[:, :, 0] = 1.0
    trace = model.trace(noise, images(4))
    assert (trace.write == trace.write[:, :, :1]).all()
    assert torch.equal(trace.canvas[0], trace.canvas[2])


def chains(model: SequentialModel, x: Tensor, rest: Tensor):
    """F, log w and q(chain) of the chains of T = 2 presences, [3] each, where and what by the noise `rest` [2,4]."""
    uniform = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])[..., None]
    noise = torch.cat([uniform, rest[:, None].expand(2, 3, 4)], 2)
    x = x.expand(3, 1, 4, 4)
    bound, inference = model(x, None, noise), model.infer(x, None, noise)
    assert bound.z[..., 0].T.tolist() == [[0, 0], [1, 0], [1, 1]]
    log_w = inference.likelihood.log_prob(x) + inference.log_ratio.sum(0)
    return bound.free_energy(), log_w, bound.score.sum(0).exp()


@pytest.mark.parametrize("name", ["score-function", "iwae"])
def test_the_gradient_is_that_of_the_expectation(name: str):
    """Over presences, where it is a sum; where and what by one noise, so that gradients flow through them too."""
    model = small(4, steps=2, latents=1, object_size=3)
    x, rest = images(1, 4), torch.randn(2, 4, generator=torch.Generator().manual_seed(3))
    free_energy, log_w, q = chains(model, x, rest)
    torch.testing.assert_close(q.sum(), torch.tensor(1.0))
    if name == "iwae":
        pairs = itertools.product(range(3), repeat=2)
        expectation = -sum(
            q[i] * q[j] * (torch.stack([log_w[i], log_w[j]]).logsumexp(0) - math.log(2)) for i, j in pairs
        )
    else:
        expectation = (q * free_energy).sum()
    kind = find("objective", name)
    settings = {"normalise": False} if name == "score-function" else {"importance_samples": 2}
    chosen = kind.load()(kind.settings(**settings), model.sizes)
    many = 40_000
    noise = torch.cat(
        [noise_of(model, chosen.samples * many)[..., :1], rest[:, None].expand(2, chosen.samples * many, 4)],
        2,
    )
    batch = Batch(x.expand(many, 1, 4, 4), None, noise)
    found = chosen(model, batch, chosen(model, batch, chosen.start()).state).loss
    step = model.step
    parts = (step.features, step.cell, step.presence, step.where, step.what)
    inferring = [parameter for part in parts for parameter in part.parameters()]
    exact, estimated = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, inferring)])
        for loss in (expectation, found)
    )
    assert exact.norm() > 0.1
    assert (estimated - exact).norm() < 0.05 * exact.norm()


@torch.no_grad()
def test_the_bounds_against_log_p_by_quadrature():
    """Of one object with one number of what: p(x) = (1 - p) p(x | none) + p E p(x | where, what), over four normals."""
    model = small(4, steps=1, latents=1, object_size=3, presence=0.4)
    for head, numbers in ((model.step.where, 3), (model.step.what[-1], 1)):
        head.weight[numbers:].mul_(0.1)  # q wide enough that the importance weights have a finite variance
        head.bias[numbers:].fill_(0.3)
    x = images(2, 4)
    points, weights = np.polynomial.hermite_e.hermegauss(16)
    nodes = torch.tensor(list(itertools.product(points, repeat=4)), dtype=torch.float32)
    log_weights = torch.tensor(list(itertools.product(np.log(weights), repeat=4))).sum(1) - 2 * math.log(
        2 * math.pi
    )
    there = torch.cat([torch.zeros(len(nodes), 1), nodes], 1)[None]
    present, absent = model.decode(there), model.decode(torch.ones(1, 1, 5))
    log_p = torch.stack(
        [
            torch.logaddexp(
                math.log(0.4) + (present.log_prob(image[None]).double() + log_weights).logsumexp(0),
                math.log(0.6) + absent.log_prob(image[None]).double()[0],
            )
            for image in x
        ]
    ).float()
    generator = torch.Generator().manual_seed(0)
    tight = importance_weighted(model, x, None, 200_000, generator, chunk=50_000)
    torch.testing.assert_close(tight, log_p, atol=0.02, rtol=0)
    many = x.repeat(5_000, 1, 1, 1)
    bound = model(many, None, noise_of(model, len(many))).free_energy().view(-1, 2)
    assert (bound.mean(0) > -log_p + 3 * bound.std(0) / 5_000**0.5).all()


def test_the_same_noise_gives_the_same_bits_and_k_samples_an_image_are_k_runs():
    model, x, noise = small(), images(2), noise_of(small(), 6)
    assert torch.equal(noise, noise_of(model, 6))
    together = model.infer(x, None, noise)
    assert torch.equal(together.log_ratio, model.infer(x, None, noise).log_ratio)
    for sample in range(3):
        mine = slice(2 * sample, 2 * sample + 2)
        alone = model.infer(x, None, noise[:, mine].contiguous())
        torch.testing.assert_close(together.z[:, mine], alone.z)
        torch.testing.assert_close(together.log_ratio[:, mine], alone.log_ratio)
        torch.testing.assert_close(together.score[:, mine], alone.score)


def test_recomputing_changes_no_bit_of_the_gradient():
    model, x, noise = small(), images(5), noise_of(small(), 5)
    results = []
    for model.recompute in (0, 2):
        model.zero_grad()
        bound = model(x, None, noise)
        (bound.free_energy().sum() + bound.score.sum()).backward()
        results.append([p.grad for p in model.parameters()])
    assert all(grad.abs().sum() > 0 for grad in results[0])
    assert all(torch.equal(kept, again) for kept, again in zip(*results, strict=True))


def test_it_is_saved_and_loaded(tmp_path):
    model, x, noise = small(), images(3), noise_of(small(), 3)
    save_model(model, tmp_path)
    for part, again in zip(model(x, None, noise), load_model(tmp_path)(x, None, noise), strict=True):
        assert torch.equal(part, again)


def test_its_memory_is_told():
    config = small(50, object_size=20).config
    needed = training_bytes(config, 50, 64)
    assert needed > 64 * 3 * 50 * 50 * 4
    assert training_bytes(config, 50, 128) > 1.5 * needed
    assert training_bytes(config, 50, 64, recompute=1) < needed


def test_contexts_are_refused_and_settings_that_it_has_not():
    model = small()
    with pytest.raises(ValueError, match="takes no context"):
        model.sample(noise_of(model, 2), images(2))
    for setting, message in (
        ({"conditional": True}, "conditional=true: step=air is shown no context"),
        ({"attention": "full"}, "attention\n  step=air has no such setting (only sequential)"),
        ({"read_size": 4}, "and step=air has no attention"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            ModelConfig(step="air", **setting)
    assert list(model.config.problems(3)) == ["object_size=4 exceeds data.size=3"]
