"""The verb of several estimators: its numbers by the library, resuming, what it refuses."""

from __future__ import annotations

import json

import pytest
import torch

import pipelines.evaluate.estimators as verb
from pipelines.artifacts.findings import one_shot
from pipelines.artifacts.trained_model import TrainedModel
from pipelines.evaluate.estimators import estimators
from seqgen.core.errors import BadInput
from seqgen.data.images import load_split
from seqgen.evaluation import annealing, bounds
from seqgen.evaluation.errors import difference_values, estimate
from seqgen.models import load_model
from tests.finished_run import finished_run, tiny_recipe, work_in

OPTIONS = {"samples": 9, "images": 6, "draws": 30, "ais_images": 3, "ais_steps": 4, "ais_chains": 2}


@pytest.fixture
def trained(tmp_path, monkeypatch) -> TrainedModel:
    """A tiny run on dynamic digits, 20 of them in test."""
    work_in(tmp_path, monkeypatch)
    monkeypatch.setattr(verb, "_WEIGHTED_PART", 4)
    monkeypatch.setattr(verb, "_ANNEALED_PART", 2)
    return finished_run(tiny_recipe(tmp_path))


def measure(trained: TrainedModel, **options: int) -> dict:
    estimators(f"{trained.recipe.name}.yaml", None, **{**OPTIONS, **options})
    return json.loads((trained.places.one_shot / "estimators.json").read_text())


def test_the_numbers_are_the_librarys_and_their_names_say_the_binarisation(trained):
    table = measure(trained)
    entries = table["entries"]
    assert {name.rpartition("/")[0] for name in entries} == {"test/dynamic", "simulated/dynamic"}
    model = load_model(trained.model)
    held_out = bounds.hold_out(load_split(trained.places.shards, "test"), trained.recipe.data, False, 0)
    found = bounds.free_energies(model, held_out, 0)
    order = bounds.random_order(20, 0, "estimators subset")

    def shown(name: str) -> tuple[float, float, int]:
        one = entries[name]
        return pytest.approx((one["value"], one["se"], one["images"]))

    assert (*estimate(found.free_energy), 20) == shown("test/dynamic/free_energy")
    assert (*estimate(bounds.drawn_with_replacement(model, held_out, 30, 0)), 30) == shown(
        "test/dynamic/paper_protocol"
    )
    parts = [
        bounds.importance_estimates(model, held_out.take(order[:6][part]), 9, 0, part=number)
        for number, part in enumerate((slice(0, 4), slice(4, 6)))
    ]
    bound, effective, largest = (torch.cat(each) for each in zip(*parts, strict=True))
    nll = estimate(difference_values(found.free_energy, -bound, order[:6]))
    assert (*nll, 6) == shown("test/dynamic/nll_9")
    assert entries["test/dynamic/nll_9"]["k"] == 9
    assert (*estimate(effective), 6) == shown("test/dynamic/effective_samples_9")
    assert entries["test/dynamic/effective_samples_9_least"]["value"] == pytest.approx(effective.min().item())
    assert (*estimate(largest), 6) == shown("test/dynamic/largest_weight_9")
    kl = torch.tensor(table["about"]["kl_per_latent"])
    assert kl.shape == (2, 3)
    assert kl.sum(1).tolist() == pytest.approx(table["about"]["kl_per_step"], rel=1e-4)
    assert kl.sum().item() == pytest.approx(entries["test/dynamic/kl"]["value"], rel=1e-4)
    assert entries["test/dynamic/latents_of_0.01_nats"]["value"] == (kl > 0.01).sum().item()

    upper, lower = [], []
    for part in range(2):  # 3 images are two whole parts
        of = held_out.take(order[2 * part : 2 * part + 2])
        drawn, exact = annealing.simulate(model, of, 0, part=part)
        both = annealing.sandwich(model, drawn, 4, 2, 0, part=part, exact=exact)
        upper.append(-both.lower)
        lower.append(-both.upper)
    assert (*estimate(torch.cat(upper)), 4) == shown("simulated/dynamic/nll_ais")
    assert (*estimate(torch.cat(lower)), 4) == shown("simulated/dynamic/nll_ais_reverse")
    assert (*estimate(torch.cat(upper) - torch.cat(lower)), 4) == shown("simulated/dynamic/ais_gap")
    assert one_shot(trained)[0]["entries"] == entries


def test_a_second_run_goes_on_and_more_images_add_to_what_is_kept(trained, monkeypatch):
    fewer = measure(trained)
    calls = []
    weigh, anneal = bounds.importance_estimates, annealing.sandwich
    monkeypatch.setattr(
        bounds,
        "importance_estimates",
        lambda *given, **options: calls.append(("weigh", options["part"])) or weigh(*given, **options),
    )
    monkeypatch.setattr(
        annealing,
        "sandwich",
        lambda *given, **options: calls.append(("anneal", options["part"])) or anneal(*given, **options),
    )
    assert measure(trained) == fewer
    assert calls == []
    more = measure(trained, images=9, ais_images=5)
    assert calls == [("weigh", 1), ("weigh", 2), ("anneal", 2), ("anneal", 2), ("weigh", 1)]
    assert measure(trained) == fewer
    assert len(calls) == 5
    assert more["entries"]["simulated/dynamic/nll_ais"]["images"] == 6


def test_without_ais_nothing_is_annealed_and_a_model_that_cannot_be_is_refused(trained, monkeypatch):
    monkeypatch.setattr("seqgen.models.latents.GaussianLatents.normal_noise", False)
    with pytest.raises(BadInput, match="not all of this model's noise is Gaussian"):
        measure(trained)
    assert not trained.places.one_shot.exists()
    table = measure(trained, ais_images=0)
    assert not any("ais" in name for name in table["entries"])
    assert table["command"].endswith("--samples 9 --images 6 --draws 30")


def test_a_conditional_model_is_measured_given_its_contexts(tmp_path, monkeypatch):
    work_in(tmp_path, monkeypatch)
    trained = finished_run(tiny_recipe(tmp_path, conditional=True))
    entries = measure(trained, ais_images=8)["entries"]
    assert {"test/static/nll_ais", "simulated/static/ais_gap", "test/static/paper_protocol"} < set(entries)
