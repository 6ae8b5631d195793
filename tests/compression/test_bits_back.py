"""Bits back: every bit comes back, the rate is the free energy, and what cannot be decoded is refused."""

from __future__ import annotations

import functools
import math
import subprocess
import sys

import constriction
import numpy as np
import pytest
import torch
from torch.distributions import Normal

from seqgen import native
from seqgen.compression import bits_back, buckets, container, decode, encode, unpack
from seqgen.core.errors import BadInput, OperationalError
from seqgen.models import SequentialModel, build, save_model
from seqgen.settings import ModelConfig
from tests.finished_run import outside

SIDE = 8
FULL = {"attention": "full", "canvas": "additive", "canvas_channels": 1, "observation": "identity"}
MEMBERS = {
    "full": FULL,
    "learned-prior": {**FULL, "prior": "learned"},
    "draw": {
        "attention": "gaussian",
        "read_size": 2,
        "write_size": 4,
        "canvas": "additive",
        "canvas_channels": 1,
        "observation": "identity",
        "inference": "encoder",
        "error_image": True,
    },
    "paper": {"attention": "spatial-transformer", "read_size": 4, "write_size": 4, "canvas": "cgru"},
}


def member(name: str, seed: int = 0, **sizes: int) -> SequentialModel:
    """An untrained member; its learned prior is not N(0, I)."""
    torch.manual_seed(seed)
    config = ModelConfig(**{"steps": 3, "latents": 4, "hidden": 12, **MEMBERS[name], **sizes})
    model = build(config, SIDE, SIDE, 0.3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape))
    return model.eval()


@functools.cache
@torch.enable_grad()
def trained(name: str) -> SequentialModel:
    """A member that has learned something, so that q says something of x."""
    model, generator = member(name), torch.Generator().manual_seed(4)
    adam = torch.optim.Adam(model.parameters(), 0.01)
    x = images(1000, seed=5).float()
    for _ in range(200):
        batch = x[torch.randint(len(x), (50,), generator=generator)]
        adam.zero_grad()
        model(batch, None, model.noise(50, generator)).free_energy().mean().backward()
        adam.step()
    return model


def images(count: int, seed: int = 1) -> torch.Tensor:
    """Bars, each row and each column with probability 1/4, and a few wrong pixels: uint8 [count,1,SIDE,SIDE]."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(count, 1, SIDE, 1, generator=generator) < 0.25
    columns = torch.rand(count, 1, 1, SIDE, generator=generator) < 0.25
    wrong = torch.rand(count, 1, SIDE, SIDE, generator=generator) < 0.02
    return ((rows | columns) ^ wrong).byte()


def net_bits(content: bytes) -> int:
    header, words = unpack(content)
    return 32 * (len(words) - header.initial_words)


def full_stack(words: int = 40_000):
    return constriction.stream.stack.AnsCoder(np.random.default_rng(0).integers(1, 2**32, words, np.uint32))


def gaussians(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    mean = torch.randn(count, generator=generator, dtype=torch.float64)
    return mean, torch.empty(count, dtype=torch.float64).uniform_(0.02, 1.5, generator=generator)


def test_buckets_have_equal_mass_and_the_median_within():
    mass = Normal(0.0, 1.0).cdf(buckets.centres(torch.tensor([0, 1, 2**15, 2**16 - 1])).double())
    expected = (torch.tensor([0, 1, 2**15, 2**16 - 1]) + 0.5) / 2**16
    assert mass.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_what_is_popped_has_the_gaussians_moments():
    mean, std = gaussians(20_000)
    z = buckets.centres(buckets.pop(full_stack(), mean, std)).double()
    apart = (z - mean) / std
    assert apart.mean().abs() < 4 / math.sqrt(20_000)
    assert abs(apart.var() - 1) < 4 * math.sqrt(2 / 20_000)


def test_a_bucket_costs_what_its_probability_says():
    mean, std = gaussians(2000)
    stack = full_stack()
    bucket = buckets.pop(stack, mean, std)
    before = stack.num_valid_bits()
    buckets.push(stack, bucket, mean, std)

    def cdf(edge: int, m: float, s: float) -> float:
        z = torch.special.ndtri(torch.tensor(edge / 2**16, dtype=torch.float64)).item()
        return 0.5 * math.erfc((m - z) / s / math.sqrt(2))

    rows = zip(bucket.tolist(), mean.tolist(), std.tolist(), strict=True)
    bits = -sum(math.log2(cdf(one + 1, m, s) - cdf(one, m, s)) for one, m, s in rows)
    assert stack.num_valid_bits() - before == pytest.approx(bits, rel=1e-4)


def test_pushing_undoes_popping_even_where_q_lies_beyond_every_bucket():
    mean = torch.tensor([0.0, 30.0, -30.0, 4.0, 0.5], dtype=torch.float64).repeat(200)
    std = torch.tensor([1.0, 1e-3, 1e-3, 0.1, 1e-6], dtype=torch.float64).repeat(200)
    stack = full_stack()
    before = stack.get_compressed()
    bucket = buckets.pop(stack, mean, std)
    assert bucket.view(200, 5)[0, 1:3].tolist() == [2**16 - 1, 0]
    buckets.push(stack, bucket, mean, std)
    assert np.array_equal(stack.get_compressed(), before)


@pytest.mark.parametrize("name", MEMBERS)
def test_every_bit_comes_back_in_a_fresh_process(name, tmp_path):
    model, x = trained(name), images(70)
    save_model(model, tmp_path / "model")
    content = encode(model, x, batch=16)
    assert torch.equal(decode(model, content), x)
    (tmp_path / "x.bits").write_bytes(content)
    command = [sys.executable, "-m", "seqgen.compression"]
    paths = [str(tmp_path / each) for each in ("model", "x.bits", "x.npy")]
    subprocess.run([*command, *paths], check=True, env=outside())
    assert np.array_equal(np.load(tmp_path / "x.npy"), x.numpy())


@pytest.mark.parametrize(("count", "batch"), [(0, 4), (1, 4), (5, 1), (7, 3)])
def test_any_number_of_images_in_batches_of_any_size(count, batch):
    model, x = member("full"), images(count)
    assert torch.equal(decode(model, encode(model, x, batch=batch)), x)


@torch.no_grad()
def test_the_rate_is_the_free_energy_of_the_very_z(monkeypatch):
    model, x = trained("full"), images(300)
    chosen, push = [], buckets.push_under_prior
    monkeypatch.setattr(
        buckets, "push_under_prior", lambda stack, bucket: (chosen.append(bucket), push(stack, bucket))
    )
    content = encode(model, x)
    z = buckets.centres(torch.cat(chosen, 1))
    noise = torch.zeros_like(z)
    for t in range(len(z)):  # step by step the noise that gives z
        q = model.infer(x.float(), None, noise).posterior
        noise[t] = (z[t] - q.mean[t]) / q.stddev[t]
    one = model.infer(x.float(), None, noise)
    assert torch.allclose(one.z, z, atol=1e-5)
    log_q = one.posterior.log_prob(one.z).sum((0, 2))
    log_p = Normal(0.0, 1.0).log_prob(one.z).sum((0, 2)) + one.likelihood.log_prob(x.float())
    assert (log_q - Normal(0.0, 1.0).log_prob(one.z).sum((0, 2))).mean() > 2  # nats: q is not the prior
    sizes = len(chosen) * math.log2(bits_back.BATCH)  # of the batches
    expected = (log_q - log_p).sum().item() / math.log(2) + sizes
    assert net_bits(content) == pytest.approx(expected, rel=5e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", MEMBERS)
def test_the_rate_is_near_the_bound(name):
    model, x = trained(name), images(400)
    one = model(x.float(), None, model.noise(400, torch.Generator().manual_seed(3)))
    assert one.kl.sum(0).mean() > 1
    bound = one.free_energy().sum().item() / math.log(2)
    assert net_bits(encode(model, x)) == pytest.approx(bound, rel=0.02)


def test_initial_bits_are_those_of_one_image():
    model = member("full", steps=10, latents=8)
    header, words = unpack(encode(model, images(400)))
    one = 10 * 8 * buckets.BITS
    assert one / 2 < 32 * header.initial_words < 1.2 * one
    assert len(words) > header.initial_words


def test_another_model_is_refused():
    content = encode(member("full"), images(3))
    with pytest.raises(BadInput, match=r"encoded with the model \w{16}, this is \w{16}"):
        decode(member("full", seed=1), content)


def test_other_floats_are_refused(monkeypatch):
    model = member("paper")
    content = encode(model, images(3))
    kernels = unpack(content).header.floats["kernels"]
    monkeypatch.setattr(torch, "__version__", "2.0.0")
    with pytest.raises(BadInput, match=r"torch was '2\.\S+', is '2\.0\.0'"):
        decode(model, content)
    monkeypatch.undo()
    if kernels:
        with native.using("none"), pytest.raises(BadInput, match=r"kernels was \['.+'\], is \[\]"):
            decode(model, content)


def test_an_altered_file_is_refused():
    model = member("full")
    content = encode(model, images(20))
    for bad in (content[:-1], content[:-40] + bytes(8) + content[-32:], content + b"\0"):
        with pytest.raises(OperationalError, match="altered or cut short"):
            decode(model, bad)
    with pytest.raises(BadInput, match="not a file of seqgen-bits-back-1"):
        decode(model, b"GIF89a" + content)


@pytest.mark.parametrize("place", [0, -1])
def test_words_that_do_not_end_with_the_initial_bits_are_refused(place):
    model = member("full")
    header, words = unpack(encode(model, images(20)))
    words[place] ^= 4
    with pytest.raises(OperationalError, match="does not end with the bits that encoding began with"):
        decode(model, container.pack(header, words))


def test_what_cannot_be_compressed_is_refused():
    model = member("full")
    for x in (images(2).float() / 2, images(2)[:, 0], torch.zeros(2, 1, 9, 9)):
        with pytest.raises(BadInput, match="of zeros and ones"):
            encode(model, x)
    with pytest.raises(BadInput, match="float64"):
        encode(model.double(), images(2))
    conditional = build(ModelConfig(steps=2, hidden=8, conditional=True, **FULL), SIDE, SIDE, 0.3)
    with pytest.raises(BadInput, match="conditional=true: compression does not code contexts"):
        encode(conditional, images(2))
    neighbours = build(ModelConfig(steps=2, hidden=8, observation="local-autoregressive"), SIDE, SIDE, 0.3)
    with pytest.raises(BadInput, match=r"independent Bernoulli pixels.*LocalObservation"):
        encode(neighbours, images(2))


def test_threads_are_left_as_they_were():
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        content = encode(member("full"), images(2))
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert unpack(content).header.floats["threads"] == 1
    assert unpack(content).header.batch == bits_back.BATCH
