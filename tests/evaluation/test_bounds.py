"""Held-out bounds against a plain loop, closed forms and their own definitions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from seqgen.core.errors import BadInput, NumericalError
from seqgen.data.batches import generator_at
from seqgen.data.images import ImageSet
from seqgen.data.settings import DataConfig
from seqgen.evaluation import bounds, errors
from seqgen.evaluation.bounds import HeldOut
from seqgen.models import SequentialModel, build
from seqgen.settings import EvaluateConfig, ModelConfig

BITS = DataConfig(source="omniglot-strokes", size=28, split="30-20", binarise="static")
GREY = DataConfig(source="mnist-5k", size=28, binarise="dynamic")
CPU = torch.device("cpu")


def tiny(conditional: bool = False, steps: int = 2) -> SequentialModel:
    torch.manual_seed(1)
    config = ModelConfig(
        steps=steps,
        latents=2,
        hidden=6,
        attention="full",
        canvas="additive",
        posterior_hidden=5,
        conditional=conditional,
    )
    model = build(config, 4, 3, 0.3).eval()
    with torch.no_grad():  # far from its start, where z hardly matters
        for name, parameter in model.named_parameters():
            # Less of what is written, and of q's distance from the prior: no bound is dominated by a few samples.
            less = name.startswith(("step.writer", "step.observation", "step.posterior.head"))
            parameter.mul_(6 if name.startswith("step.posterior.inner") else 0.5 if less else 3)
    return model


def strokes(count: int = 24, concepts: int = 6) -> ImageSet:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 2, (count, 4, 3), generator=generator, dtype=torch.uint8)
    names = tuple(f"c{number}" for number in range(concepts))
    return ImageSet(images, 2, torch.arange(count) % concepts, torch.zeros(count, dtype=torch.int64), names)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 5 images, so that a few images make several, the last one short."""
    monkeypatch.setattr(bounds, "CHUNK", 5)
    return 5


def test_free_energies_are_those_of_a_plain_loop():
    model, held_out = tiny(), bounds.hold_out(strokes(), BITS, False, 0)
    found = bounds.free_energies(model, held_out, seed=7)

    noise = model.noise(24, generator_at(CPU, 7, "free energy", 0))
    expected, kl = [], torch.zeros(2, dtype=torch.float64)
    for image in range(24):
        inference = model.infer(held_out.x[image : image + 1].float(), None, noise[:, image : image + 1])
        q, total = inference.posterior, 0.0
        for t in range(2):
            for k in range(2):
                mu, sigma = q.loc[t, 0, k].item(), q.scale[t, 0, k].item()
                term = 0.5 * (mu * mu + sigma * sigma - 1) - math.log(sigma)
                total, kl[t] = total + term, kl[t] + term / 24
        p = inference.likelihood.mean[0, 0]
        for row in range(4):
            for column in range(3):
                ink = p[row, column].item()
                total -= math.log(ink if held_out.x[image, 0, row, column] else 1 - ink)
        expected.append(total)
    torch.testing.assert_close(
        found.free_energy, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(found.kl, kl, rtol=1e-5, atol=1e-6)


def test_every_image_is_measured_once_and_in_order_whatever_the_chunks(small_chunks):
    model, held_out = tiny(), bounds.hold_out(strokes(), BITS, False, 0)
    seen = []
    found = bounds.free_energies(model, held_out, seed=3, advance=seen.append)
    assert seen == [5, 5, 5, 5, 4]
    for start in range(0, 24, 5):
        x = held_out.x[start : start + 5].float()
        with torch.no_grad():
            bound = model(x, None, model.noise(len(x), generator_at(CPU, 3, "free energy", start // 5)))
        torch.testing.assert_close(found.free_energy[start : start + 5].float(), bound.free_energy())


def test_the_mean_is_the_same_however_many_share_the_work(small_chunks):
    class Rank:
        def __init__(self, rank: int, size: int, others: list[torch.Tensor]) -> None:
            self.rank, self.size, self.others = rank, size, others

        def sum(self, values: torch.Tensor) -> torch.Tensor:
            self.others.append(values)
            return sum(self.others)

    model, held_out = tiny(), bounds.hold_out(strokes(), BITS, False, 0)
    mean = bounds.free_energies(model, held_out, seed=3).free_energy.mean().item()
    for size in (1, 2, 3, 7):
        parts = []
        found = [bounds.mean_free_energy(model, held_out, 3, Rank(rank, size, parts)) for rank in range(size)]
        assert found[-1] == pytest.approx(mean, rel=1e-6)


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others():
    model, images = tiny(), strokes()
    grey = replace(images, images=images.images * 128, levels=256)
    first, second, other = (bounds.hold_out(grey, GREY, False, seed) for seed in (4, 4, 5))
    assert first.x.equal(second.x)
    assert not first.x.equal(other.x)
    one, again = (bounds.free_energies(model, first, 4).free_energy for _ in range(2))
    assert one.equal(again)
    assert not one.equal(bounds.free_energies(model, first, 5).free_energy)


def test_standard_error_is_the_sample_deviation_over_root_n():
    mean, se = errors.estimate(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert mean == 3.0
    assert se == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3 / 4))
    with pytest.raises(BadInput, match="at least 2 images"):
        errors.estimate(torch.tensor([1.0]))


def test_standard_error_covers_the_mean_of_the_population():
    generator = torch.Generator().manual_seed(0)
    population = torch.randn(20_000, generator=generator).exp()
    inside = 0
    for _ in range(300):
        mean, se = errors.estimate(population[torch.randint(20_000, (200,), generator=generator)])
        inside += abs(mean - population.mean().item()) < 2 * se
    assert 0.88 < inside / 300 < 0.99


def test_drawings_of_one_concept_count_as_one_observation():
    generator = torch.Generator().manual_seed(0)
    concept = torch.randn(12, generator=generator)
    values, groups = concept.repeat(20), torch.arange(12).repeat(20) + 100
    mean, se = errors.estimate(values, groups)
    assert mean == pytest.approx(concept.mean().item(), rel=1e-5)
    assert se == pytest.approx(errors.estimate(concept).se, rel=1e-5)
    assert se > 4 * errors.estimate(values).se
    alone = errors.estimate(values, torch.arange(240))
    assert alone == pytest.approx(errors.estimate(values))
    with pytest.raises(BadInput, match="at least 2 concepts"):
        errors.estimate(values, torch.zeros(240, dtype=torch.int64))


def by_difference(bounds_of_all, tighter, chosen, groups=None):
    return errors.estimate(errors.difference_values(bounds_of_all, tighter, chosen), groups)


def test_clustered_error_of_the_difference_estimator_covers_the_population():
    """Bounds and gains of concepts of 10 drawings each; a new population and a new subset each time."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(80).repeat_interleave(10)
    inside = naive = 0
    for _ in range(300):
        concept = torch.randn(80, generator=generator, dtype=torch.float64)[groups]
        gain = 3 + 0.5 * concept + 0.1 * torch.randn(800, generator=generator, dtype=torch.float64)
        chosen = torch.randperm(800, generator=generator)[:200]
        values = 10 + concept
        args = values, (values - gain)[chosen], chosen
        mean, se = by_difference(*args, groups)
        inside += abs(mean - 7) < 2 * se
        naive += abs(mean - 7) < 2 * by_difference(*args).se
    assert 0.9 < inside / 300 < 0.99
    assert naive / 300 < 0.75


def test_only_characters_are_groups():
    assert bounds.hold_out(strokes(), BITS, False, 0).groups.equal(strokes().concepts)
    grey = replace(strokes(), levels=256)
    assert bounds.hold_out(grey, GREY, False, 0).groups is None


def test_difference_estimator_is_plain_where_all_is_known_and_unbiased_where_not():
    generator = torch.Generator().manual_seed(0)
    total = 10 * torch.randn(400, generator=generator, dtype=torch.float64)
    tighter = total - 2 + 0.1 * torch.randn(400, generator=generator, dtype=torch.float64)
    complete = by_difference(total, tighter, torch.arange(400))
    assert complete.mean == pytest.approx(tighter.mean().item())
    assert complete.se == pytest.approx(errors.estimate(tighter).se)

    means, found = [], []
    for _ in range(300):
        chosen = torch.randperm(400, generator=generator)[:40]
        mean, se = by_difference(total, tighter[chosen], chosen)
        means.append(mean)
        found.append(se)
    assert sum(means) / 300 == pytest.approx(tighter.mean().item(), abs=0.01)
    # Far closer than the mean of 40 images alone, whose standard error is 10 / sqrt(40) = 1.6 nats.
    assert torch.tensor(means).std() < 0.05
    assert sum(found) / 300 == pytest.approx(complete.se, rel=0.1)


def repeated(times: int) -> HeldOut:
    held_out = bounds.hold_out(strokes(), BITS, False, 0)
    return HeldOut(held_out.x.repeat(times, 1, 1, 1), None, held_out.concepts.repeat(times))


def test_importance_weighted_with_one_sample_is_the_free_energy_in_expectation():
    model, held_out = tiny(), repeated(300)
    one = bounds.importance_bounds(model, held_out, 1, seed=0).view(300, 24)
    free = bounds.free_energies(model, held_out, seed=1).free_energy.view(300, 24)
    mean, se = errors.estimate((one - free).mean(1))
    assert abs(mean) < 4 * se
    assert se < 0.05


def test_importance_weighted_bound_falls_with_k():
    model, held_out = tiny(), repeated(20)
    few, many = (bounds.importance_bounds(model, held_out, k, seed=0).mean() for k in (1, 16))
    assert many < few - 0.2


def test_importance_weighing_stops_for_others_after_every_chunk_of_samples(small_chunks):
    """Of one image with 12 samples, too: 5, 5 and 2 of them."""
    model, held_out = tiny(), bounds.hold_out(strokes(3, 3), BITS, False, 0)
    found = list(bounds.importance_chunks(model, held_out, 12, 4))
    assert [each is None for each in found] == [True, True, True, False] * 3
    parts = [each.bound for each in found if each is not None]
    assert torch.equal(torch.cat(parts), -bounds.importance_bounds(model, held_out, 12, 4))


def test_foreign_contexts_are_the_same_contexts_and_never_of_the_images_concept():
    images = strokes(60, 6)
    images = replace(images, images=torch.arange(60, dtype=torch.uint8).view(-1, 1, 1).expand(-1, 4, 3) % 2)
    held_out = HeldOut(
        images.images.unsqueeze(1), torch.arange(60, dtype=torch.uint8).view(-1, 1, 1, 1), images.concepts
    )
    foreign = bounds.foreign_context(held_out, seed=0).flatten().long()
    assert sorted(foreign.tolist()) == list(range(60))
    assert not (images.concepts[foreign] == images.concepts).any()
    assert not foreign.equal(bounds.foreign_context(held_out, seed=1).flatten().long())


def test_a_foreign_context_of_an_alphabet_is_of_another_alphabet():
    images = replace(strokes(60, 6), alphabets=strokes(60, 6).concepts // 3)
    held_out = bounds.hold_out(images, BITS, True, 0, pairs="alphabet")
    assert held_out.pairs == held_out.take(torch.arange(5)).pairs == "alphabet"
    numbered = replace(held_out, context=torch.arange(60, dtype=torch.uint8).view(-1, 1, 1, 1))
    foreign = bounds.foreign_context(numbered, seed=0).flatten().long()
    assert sorted(foreign.tolist()) == list(range(60))
    assert not (images.alphabets[foreign] == images.alphabets).any()


def test_a_character_alone_in_its_alphabet_is_left_out_where_contexts_are_others_of_the_alphabet():
    images = replace(strokes(60, 6), alphabets=strokes(60, 6).concepts.clamp(max=1))
    alone = images.alphabets == 0
    assert 0 < int(alone.sum()) < 60
    held_out = bounds.hold_out(images, BITS, True, 0, pairs="alphabet", contexts=2)
    assert held_out.concepts.equal(images.concepts[~alone])
    assert held_out.groups.equal(images.concepts[~alone])
    assert len(bounds.hold_out(images, BITS, True, 0)) == 60


def test_no_foreign_context_where_one_concept_has_most_images():
    concepts = torch.tensor([0, 0, 0, 1, 1])
    held_out = HeldOut(torch.zeros(5, 1, 2, 2), torch.zeros(5, 1, 2, 2), concepts)
    assert bounds.foreign_context(held_out, 0) is None


def test_the_cost_of_a_foreign_context_is_a_difference_image_by_image_with_clustered_errors():
    model = tiny(conditional=True)
    held_out = bounds.hold_out(strokes(), BITS, True, 0)
    metrics = bounds.measure(
        model, held_out, EvaluateConfig(importance_samples=2, importance_images=4)
    ).metrics
    ours = bounds.free_energies(model, held_out, 0).free_energy
    exchanged = replace(held_out, context=bounds.foreign_context(held_out, 0))
    theirs = bounds.free_energies(model, exchanged, 0, purpose="foreign").free_energy
    groups = held_out.concepts
    assert metrics["bound"] == pytest.approx(ours.mean().item())
    assert metrics["bound_se"] == pytest.approx(errors.estimate(ours, groups).se)
    assert metrics["bound_shuffled_context"] == pytest.approx(theirs.mean().item())
    assert metrics["bound_shuffled_context_se"] == pytest.approx(errors.estimate(theirs, groups).se)
    assert metrics["foreign_context_cost"] == pytest.approx((theirs - ours).mean().item())
    assert metrics["foreign_context_cost_se"] == pytest.approx(errors.estimate(theirs - ours, groups).se)


def test_the_bounds_share_no_random_numbers(monkeypatch):
    """Each pass begins a stream of its own: no two generators of one measurement have the same state."""
    asked = []

    def remember(device, *position):
        asked.append(position)
        return generator_at(device, *position)

    monkeypatch.setattr(bounds, "generator_at", remember)
    held_out = bounds.hold_out(strokes(), BITS, True, 0)
    config = EvaluateConfig(importance_samples=2, importance_images=4, seed=9)
    bounds.measure(tiny(conditional=True), held_out, config)
    once = {"foreign context", "importance subset", "importance"}
    by_chunk = {(9, purpose, 0) for purpose in ("free energy", "foreign")}
    assert sorted(asked, key=repr) == sorted({(9, purpose) for purpose in once} | by_chunk, key=repr)


def test_measurement_adds_up_and_counts_its_passes():
    model, held_out = tiny(steps=3), bounds.hold_out(strokes(), BITS, False, 0)
    config = EvaluateConfig(importance_samples=4, importance_images=6, seed=9)
    seen = []
    found = bounds.measure(model, held_out, config, seen.append)
    metrics = found.metrics
    assert metrics["bound"] == pytest.approx(metrics["kl"] - metrics["log_likelihood"])
    assert metrics["images"] == 24
    assert metrics["iwae_4_images"] == 6
    assert "foreign_context_cost" not in metrics
    assert found.kl_per_step.shape == (3,)
    assert found.kl_per_step.sum().item() == pytest.approx(metrics["kl"])
    assert sum(seen) == bounds.passes(held_out, config) == 24 + 4 * 6


def test_a_subset_never_repeats_and_depends_on_the_seed():
    assert bounds.subset(3, 9, 0, "importance subset").tolist() == [0, 1, 2]
    chosen = bounds.subset(100, 40, 0, "importance subset")
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == 40
    assert chosen.equal(bounds.subset(100, 40, 0, "importance subset"))
    assert not chosen.equal(bounds.subset(100, 40, 1, "importance subset"))


def test_the_importance_subset_does_not_follow_the_order_of_the_set(monkeypatch):
    """Classes in turn, as chunked digits are: every k-th image would be of few classes only."""
    taken = []

    def remember(model, held_out, *rest):
        taken.append(held_out.concepts)
        return torch.zeros(len(held_out), dtype=torch.float64)

    monkeypatch.setattr(bounds, "importance_bounds", remember)
    images = replace(strokes(1000, 10), levels=256)
    held_out = bounds.hold_out(images, GREY, False, 0)
    config = EvaluateConfig(importance_samples=2, importance_images=250)
    bounds.measure(tiny(), held_out, config)
    counts = torch.bincount(taken[0], minlength=10)
    assert counts.sum() == 250
    assert counts.min() >= 10


def test_a_bound_that_is_not_finite_is_refused_with_the_image():
    model, held_out = tiny(), bounds.hold_out(strokes(), BITS, False, 0)
    with torch.no_grad():
        model.step.canvas0.fill_(math.nan)
    with pytest.raises(NumericalError, match="held-out image 0 is nan"):
        bounds.free_energies(model, held_out, 0)


def test_a_measurement_has_errors_by_alphabet_where_there_are_two_at_least():
    model, images = tiny(conditional=True), strokes(48, 12)
    config = EvaluateConfig(importance_samples=2, importance_images=8)
    alone = bounds.measure(model, bounds.hold_out(images, BITS, True, 0), config).metrics
    assert not any(name.endswith("_by_alphabet") for name in alone)

    held_out = bounds.hold_out(replace(images, alphabets=images.concepts // 4), BITS, True, 0)
    metrics = bounds.measure(model, held_out, config).metrics
    named = {
        f"{name}_se_by_alphabet"
        for name in ("bound", "bound_shuffled_context", "foreign_context_cost", "iwae_2")
    }
    assert metrics.keys() - alone.keys() == named
    free = bounds.free_energies(model, held_out, 0).free_energy
    assert metrics["bound_se_by_alphabet"] == errors.estimate(free, images.concepts // 4).se
    chosen = bounds.subset(48, 8, 0, "importance subset")
    weighted = bounds.importance_bounds(model, held_out.take(chosen), 2, 0)
    expected = by_difference(free, weighted, chosen, images.concepts // 4)
    assert (metrics["iwae_2"], metrics["iwae_2_se_by_alphabet"]) == expected
    assert {name: metrics[name] for name in alone} == alone


def test_the_noise_of_a_part_is_its_own_and_an_images_that_of_its_place_in_it():
    model, held_out = tiny(), bounds.hold_out(strokes(), BITS, False, 0)
    twice = held_out.take(torch.tensor([3, 3, 4]))
    whole = bounds.importance_bounds(model, twice, 5, 0, part=1)
    assert whole[0] != whole[1]
    fewer = bounds.importance_bounds(model, twice.take(torch.arange(2)), 5, 0, part=1)
    torch.testing.assert_close(fewer, whole[:2])  # a smaller batch is rounded otherwise on some chips
    for other in (2, 0):
        drawn_anew = bounds.importance_bounds(model, twice, 5, 0, part=other)
        assert not torch.allclose(drawn_anew, whole)


def test_what_is_taken_keeps_what_it_has_and_fewer_contexts_are_the_first():
    images = replace(strokes(), alphabets=torch.arange(24) // 12)
    held_out = bounds.hold_out(images, BITS, True, 0, contexts=3)
    index = torch.tensor([20, 1, 7])
    taken = held_out.take(index)
    for part in ("x", "context", "concepts", "groups", "alphabets"):
        assert getattr(taken, part).equal(getattr(held_out, part)[index])
    assert held_out.with_contexts(1).context.equal(bounds.hold_out(images, BITS, True, 0).context)
    assert held_out.with_contexts(0).context.shape == (24, 0, 4, 3)


def test_any_first_few_of_a_random_order_are_the_subset():
    order = bounds.random_order(50, 3, "some purpose")
    assert sorted(order.tolist()) == list(range(50))
    assert order[:20].sort().values.equal(bounds.subset(50, 20, 3, "some purpose"))
