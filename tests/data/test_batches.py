"""Order, ranks, partners, binarisation: what decides whether a run is the same run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from seqgen.core.errors import BadInput
from seqgen.data.batches import (
    TrainingBatches,
    binarise,
    fixed_set,
    thresholds,
)
from seqgen.data.images import ImageSet
from seqgen.data.order import epoch_order, generator_at
from seqgen.data.settings import DataConfig

GREY = DataConfig(source="mnist-5k", size=28, binarise="dynamic")
BITS = DataConfig(source="omniglot-strokes", size=28, split="30-20", binarise="static")


def make_set(count: int, concepts: list[int], levels: int = 256) -> ImageSet:
    """Images whose pixels tell which one it is: image i has the value i everywhere (or its bits)."""
    ids = torch.arange(count)
    if levels == 256:
        images = ids.to(torch.uint8).view(-1, 1, 1).expand(-1, 3, 4).contiguous()
    else:
        images = (ids.view(-1, 1) >> torch.arange(12)).bitwise_and(1).to(torch.uint8).view(-1, 3, 4)
    names = tuple(f"c{number}" for number in range(max(concepts) + 1))
    return ImageSet(images, levels, torch.tensor(concepts), torch.full((count,), -1), names)


def identity(x: torch.Tensor) -> torch.Tensor:
    """Which image of a two-level `make_set` each of x [B,1,3,4] is."""
    return (x.flatten(1).long() << torch.arange(12)).sum(1)


def batches(images: ImageSet, rank: int = 0, size: int = 1, seed: int = 3) -> TrainingBatches:
    return TrainingBatches(images, BITS, 8, conditional=True, seed=seed, rank=rank, size=size)


def test_an_epoch_is_a_permutation_that_changes_with_seed_and_epoch():
    first = epoch_order(100, seed=1, epoch=0)
    assert sorted(first.tolist()) == list(range(100))
    assert first.equal(epoch_order(100, seed=1, epoch=0))
    assert not first.equal(epoch_order(100, seed=1, epoch=1))
    assert not first.equal(epoch_order(100, seed=2, epoch=0))


def test_an_epoch_shows_every_image_at_most_once_and_drops_only_the_rest():
    images = make_set(45, [i // 5 for i in range(45)], levels=2)
    source = batches(images)
    seen = torch.cat([identity(source.at(4, step).x) for step in range(source.steps)]).tolist()
    assert source.steps == 5
    assert len(set(seen)) == len(seen) == 40


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_ranks_slices_make_the_global_batch(size: int):
    images = make_set(64, [i // 4 for i in range(64)], levels=2)
    whole = batches(images).at(1, 2)
    parts = [batches(images, rank, size).at(1, 2) for rank in range(size)]
    assert torch.cat([part.x for part in parts]).equal(whole.x)
    assert torch.cat([part.context for part in parts]).equal(whole.context)
    assert len(set(identity(whole.x).tolist())) == 8


def test_a_batch_depends_on_its_position_alone():
    images = make_set(64, [i // 4 for i in range(64)], levels=2)
    source = batches(images)
    source.at(0, 0), source.at(7, 1)
    late, fresh = source.at(2, 3), batches(images).at(2, 3)
    assert all(a.equal(b) for a, b in zip(late, fresh, strict=True))
    assert not fresh.x.equal(batches(images).at(2, 4).x)
    assert not fresh.x.equal(batches(images, seed=4).at(2, 3).x)


def test_the_random_numbers_of_the_process_do_not_matter():
    images = make_set(64, [i // 4 for i in range(64)], levels=2)
    torch.manual_seed(1)
    first = batches(images).at(0, 0)
    torch.manual_seed(2)
    assert all(a.equal(b) for a, b in zip(first, batches(images).at(0, 0), strict=True))


def test_the_context_is_another_drawing_of_the_same_concept():
    concepts = torch.tensor([0, 1, 0, 2, 1, 0, 2, 2, 2, 1] * 6)
    images = make_set(60, concepts.tolist(), levels=2)
    source = batches(images)
    for step in range(source.steps):
        batch = source.at(0, step)
        drawn, partner = identity(batch.x), identity(batch.context)
        assert bool((drawn != partner).all())
        assert concepts[drawn].equal(concepts[partner])


def test_dynamic_binarisation_has_the_greys_as_its_means():
    levels = torch.tensor([0, 51, 128, 204, 255], dtype=torch.uint8)
    grey = levels.repeat(20_000, 1).view(-1, 1, 5)
    uniform = thresholds(tuple(grey.shape), "dynamic", generator_at(torch.device("cpu"), 0))
    drawn = binarise(grey, 256, "dynamic", uniform)
    assert drawn.shape == (20_000, 1, 1, 5)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    mean = drawn.mean(0).flatten()
    assert mean[0] == 0
    assert mean[4] == 1
    # The largest standard error is 0.5 / sqrt(20,000) = 0.0035.
    assert torch.allclose(mean, levels / 255, atol=5 * 0.0035)


def test_threshold_is_grey_above_one_half():
    grey = torch.tensor([[[0, 127, 128, 255]]], dtype=torch.uint8)
    assert binarise(grey, 256, "threshold", None).flatten().tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("levels", "how"), [(256, "static"), (2, "dynamic"), (2, "threshold")])
def test_a_binarisation_that_does_not_fit_the_levels_is_refused(levels: int, how: str):
    with pytest.raises(BadInput, match="binarise"):
        binarise(torch.zeros(1, 2, 2, dtype=torch.uint8), levels, how, None)  # type: ignore[arg-type]


def test_dynamic_binarisation_differs_between_epochs_but_not_when_repeated():
    images = ImageSet(
        torch.full((16, 3, 4), 128, dtype=torch.uint8),
        256,
        torch.zeros(16).long(),
        torch.zeros(16).long(),
        ("c",),
    )
    source = TrainingBatches(images, GREY, 16, conditional=False, seed=0)
    assert source.at(0, 0).x.equal(source.at(0, 0).x)
    assert not source.at(0, 0).x.equal(source.at(1, 0).x)
    assert source.at(0, 0).context is None


def test_a_batch_larger_than_the_set_is_refused():
    with pytest.raises(BadInput, match=r"train\.batch=8 exceeds the 7"):
        batches(make_set(7, [0] * 7, levels=2))


def test_a_batch_that_ranks_cannot_share_is_refused():
    with pytest.raises(BadInput, match="divisible by 3"):
        batches(make_set(64, [0] * 64, levels=2), 0, 3)


def test_evaluation_pairs_each_image_with_another_of_its_concept():
    concepts = torch.tensor([i // 3 for i in range(30)])
    images = make_set(30, concepts.tolist(), levels=2)
    x, partners = fixed_set(images, BITS, True, seed=5)
    assert x.equal(images.images)
    assert partners is not None
    assert bool((partners != torch.arange(30).unsqueeze(1)).all())
    assert concepts[partners].equal(concepts.unsqueeze(1))


def test_more_contexts_begin_with_the_same_ones():
    images = make_set(40, [i // 10 for i in range(40)], levels=2)
    one, five = (fixed_set(images, BITS, True, seed=5, contexts=n).partners for n in (1, 5))
    assert one is not None
    assert five is not None
    assert five[:, :1].equal(one)
    assert fixed_set(images, BITS, True, seed=5, contexts=0).partners.shape == (40, 0)


def test_the_number_of_contexts_is_drawn_for_each_step_and_is_the_same_on_every_rank():
    images = make_set(80, [i // 20 for i in range(80)], levels=2)
    whole, first, second = (
        TrainingBatches(images, BITS, 8, conditional=True, seed=1, rank=rank, size=size, contexts=(0, 1, 3))
        for rank, size in ((0, 1), (0, 2), (1, 2))
    )
    seen = []
    for step in range(whole.steps):
        batch, parts = whole.at(0, step), (first.at(0, step), second.at(0, step))
        assert torch.cat([part.context for part in parts]).equal(batch.context)
        seen.append(batch.context.shape[1])
    assert set(seen) == {0, 1, 3}


def test_more_contexts_than_there_are_drawings_are_refused():
    images = make_set(80, [i // 20 for i in range(80)], levels=2)
    with pytest.raises(BadInput, match=r"contexts=\[1, 20\].*19 others"):
        TrainingBatches(images, BITS, 8, conditional=True, seed=1, contexts=(1, 20))


def test_new_classes_map_an_image_and_its_contexts_alike_until_their_epoch_and_on_every_rank_alike():
    images = make_set(64, [0] * 64, levels=2)
    bars = torch.zeros(64, 9, 9, dtype=torch.uint8)
    bars[:, 2, 1:6] = 1
    images = replace(images, images=bars)  # all alike: a map shows, whatever is paired
    plain, mapped, half = (
        TrainingBatches(
            images, BITS, 32, conditional=True, seed=1, contexts=(2,), new_classes_until=until, size=size
        )
        for until, size in ((0, 1), (1, 1), (1, 2))
    )
    batch = mapped.at(0, 0)
    assert batch.context[:, :1].equal(batch.x)
    assert batch.context[:, 1:].equal(batch.x)
    changed = (batch.x != plain.at(0, 0).x).flatten(1).any(1)
    assert 4 < int(changed.sum()) < 28
    assert half.at(0, 0).x.equal(batch.x[:16])
    assert set(batch.x.unique().tolist()) == {0.0, 1.0}
    assert mapped.at(1, 0).x.equal(plain.at(1, 0).x)


def test_a_subset_is_spread_over_the_concepts_and_keeps_pairs():
    images = make_set(200, [i // 20 for i in range(200)])
    small = images.spread(60)
    assert len(small) == 60
    assert torch.bincount(small.concepts).tolist() == [6] * 10
    assert small.images.equal(images.spread(60).images)
    tiny = images.spread(7)
    counts = torch.bincount(tiny.concepts, minlength=10)
    assert len(tiny) == 7
    assert int((counts > 0).sum()) == 3
    assert int(counts[counts > 0].min()) >= 2
    assert images.spread(None) is images
    assert len(images.spread(1)) == 1
