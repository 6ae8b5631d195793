"""KL and activity of each latent against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Bernoulli

from seqgen.data.batches import generator_at
from seqgen.evaluation import bounds
from seqgen.evaluation.bounds import HeldOut
from seqgen.evaluation.latent_use import latent_use
from seqgen.models import build
from seqgen.settings import ModelConfig

CPU = torch.device("cpu")


def tiny(prior: str = "standard-normal"):
    torch.manual_seed(1)
    sizes = {"steps": 2, "latents": 3, "hidden": 6, "posterior_hidden": 5}
    model = build(ModelConfig(**sizes, attention="full", canvas="additive", prior=prior), 4, 3, 0.3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("step.posterior"):
                parameter.mul_(3)
            elif name.startswith("step.prior"):
                parameter.copy_(0.3 * torch.randn_like(parameter))
        # The last latent's q is N(0, 1) whatever x is.
        model.step.posterior.head.weight[[2, 5]] = 0
        model.step.posterior.head.bias[[2, 5]] = 0
    return model


def images(count: int = 40) -> HeldOut:
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(0, 2, (count, 1, 4, 3), generator=generator, dtype=torch.uint8)
    return HeldOut(x, None, torch.arange(count))


@pytest.mark.parametrize("prior", ["standard-normal", "learned"])
def test_the_kl_of_the_latents_of_a_step_sums_to_the_steps(prior, monkeypatch):
    monkeypatch.setattr(bounds, "CHUNK", 15)
    model, held_out = tiny(prior), images()
    use = latent_use(model, held_out, 3)
    assert use.kl.shape == use.activity.shape == (2, 3)
    torch.testing.assert_close(
        use.kl.sum(1), bounds.free_energies(model, held_out, 3).kl, rtol=1e-5, atol=1e-6
    )


@torch.no_grad()
def test_the_kl_of_a_latent_is_that_of_a_plain_loop():
    model, held_out = tiny(), images()
    noise = model.noise(40, generator_at(CPU, 3, "free energy", 0))
    q = model.infer(held_out.x.float(), None, noise).posterior
    use = latent_use(model, held_out, 3)
    for t in range(2):
        for k in range(3):
            terms = [
                0.5 * (mean**2 + sigma**2 - 1) - math.log(sigma)
                for mean, sigma in zip(q.mean[t, :, k].tolist(), q.stddev[t, :, k].tolist(), strict=True)
            ]
            assert use.kl[t, k].item() == pytest.approx(sum(terms) / 40, rel=1e-5, abs=1e-7)


@torch.no_grad()
def test_activity_is_the_variance_over_images_of_the_mean_over_paths():
    """Against the means of 400 paths; a variance along one path would take the paths' for the images'."""
    model, few = tiny(), images(12)
    paths = 400
    repeated = few.x.float().repeat(paths, 1, 1, 1)
    noise = model.noise(len(repeated), torch.Generator().manual_seed(0))
    means = model.infer(repeated, None, noise).posterior.mean.double().view(2, paths, 12, 3)
    expected = means.mean(1).var(1, correction=0)
    along_one = means.var(2, correction=0).mean(1)
    assert (along_one[1, :2] > 1.1 * expected[1, :2]).all()

    many = HeldOut(few.x.repeat(200, 1, 1, 1), None, torch.arange(2400))
    use = latent_use(model, many, 5)
    torch.testing.assert_close(use.activity[:, :2], expected[:, :2], rtol=0.1, atol=1e-4)
    torch.testing.assert_close(use.activity[0, :2], along_one[0, :2], rtol=0.02, atol=1e-4)
    assert (use.activity[:, 2].abs() < 1e-12).all()
    assert (use.kl[:, 2].abs() < 1e-12).all()


def test_other_latents_have_none(monkeypatch):
    model = tiny()
    latents = type(model.step.latents)
    monkeypatch.setattr(latents, "distribution", lambda self, _: Bernoulli(logits=torch.zeros(2, 1, 3)))
    assert latent_use(model, images(), 0) is None


def test_the_papers_protocol_is_f_of_images_drawn_with_replacement():
    model, held_out = tiny(), images(7)
    values = bounds.drawn_with_replacement(model, held_out, 500, 4)
    index = torch.randint(7, (500,), generator=generator_at(CPU, 4, "drawn with replacement"))
    assert set(index.tolist()) == set(range(7))
    noise = [
        model.noise(250, generator_at(CPU, 4, "drawn with replacement bound", chunk)) for chunk in range(2)
    ]
    with torch.no_grad():
        expected = model(held_out.x[index].float(), None, torch.cat(noise, 1)).free_energy()
    torch.testing.assert_close(values.float(), expected)
