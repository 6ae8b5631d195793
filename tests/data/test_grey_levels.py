"""Grey images as a model sees them: dequantised, each level in its bin, a function of the seed and the position."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from seqgen.core.errors import BadInput
from seqgen.data.batches import TrainingBatches, binarise, dequantise, fixed_set
from seqgen.data.images import ImageSet
from seqgen.data.settings import DataConfig
from seqgen.evaluation.bounds import hold_out

GREY = DataConfig(source="mnist-5k", size=28, binarise="grey")
LEVELS = torch.arange(256, dtype=torch.uint8)


def levels(count: int = 32, seed: int = 0) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 6, 5), generator=generator, dtype=torch.uint8)
    concepts = torch.arange(count) % 4
    return ImageSet(images, 256, concepts, torch.full((count,), -1), ("0", "1", "2", "3"))


def batches(rank: int = 0, size: int = 1, seed: int = 3, conditional: bool = False) -> TrainingBatches:
    return TrainingBatches(levels(), GREY, 8, conditional=conditional, seed=seed, rank=rank, size=size)


@pytest.mark.parametrize("u", [0.0, 2**-24, 0.5, 1 - 2**-16, 1 - 2**-24])
def test_every_level_stays_in_its_bin_to_the_last_bit(u: float):
    x = dequantise(LEVELS, torch.full((256,), u))
    assert x.dtype == torch.float32
    assert (x.double() >= LEVELS.double() / 256).all()
    assert (x.double() < (LEVELS.double() + 1) / 256).all()
    assert torch.equal((x * 256).floor().to(torch.uint8), LEVELS)


def test_the_noise_is_uniform_in_the_bin():
    images = ImageSet(
        torch.full((500, 6, 5), 200, dtype=torch.uint8), 256, *([torch.zeros(500).long()] * 2), ("c",)
    )
    x = TrainingBatches(images, GREY, 500, conditional=False, seed=0).at(0, 0).x
    assert stats.kstest((256 * x - 200).flatten().numpy(), "uniform").pvalue > 0.01


def test_a_batch_depends_on_seed_epoch_and_step_alone():
    first = batches().at(2, 3).x
    assert first.equal(batches().at(2, 3).x)
    torch.manual_seed(5)
    source = batches()
    source.at(0, 0)
    assert first.equal(source.at(2, 3).x)
    for other in (source.at(2, 2), source.at(1, 3), batches(seed=4).at(2, 3)):
        assert not first.equal(other.x)
    # the same image is dequantised anew in another epoch
    everything = TrainingBatches(levels(), GREY, 32, conditional=False, seed=0)
    seen = [everything.at(epoch, 0).x.flatten(1) for epoch in (0, 1)]
    by_image = [x[(x * 256).floor()[:, :4].matmul(256.0 ** torch.arange(4)).argsort()] for x in seen]
    assert torch.equal(*((x * 256).floor() for x in by_image))
    assert (by_image[0] != by_image[1]).float().mean() > 0.99


@pytest.mark.parametrize("conditional", [False, True])
def test_the_ranks_slices_make_the_global_batch(conditional: bool):
    whole = batches(conditional=conditional).at(1, 2)
    parts = [batches(rank, 2, conditional=conditional).at(1, 2) for rank in (0, 1)]
    assert torch.cat([part.x for part in parts]).equal(whole.x)
    if conditional:
        assert torch.cat([part.context for part in parts]).equal(whole.context)


def test_a_held_out_set_is_dequantised_once_from_the_seed():
    images = levels()
    x = fixed_set(images, GREY, False, seed=1).x
    assert x.dtype == torch.float32
    assert torch.equal((x * 256).floor().to(torch.uint8), images.images)
    assert x.equal(fixed_set(images, GREY, False, seed=1).x)
    assert not x.equal(fixed_set(images, GREY, False, seed=2).x)
    held_out = hold_out(images, GREY, True, 1)
    assert held_out.x.squeeze(1).equal(x)
    assert held_out.context is not None
    shown = (held_out.context * 256).floor().to(torch.uint8)
    assert (shown == images.images.unsqueeze(0)).flatten(2).all(2).any(1).all()


def test_bits_are_not_grey():
    with pytest.raises(BadInput, match=r"data\.binarise=grey does not fit images of 2 levels"):
        binarise(torch.zeros(1, 2, 2, dtype=torch.uint8), 2, "grey", torch.zeros(1, 2, 2))
