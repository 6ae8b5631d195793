"""The verb that measures by the number of contexts: its numbers by a plain loop, resuming, what it refuses."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch

import pipelines.evaluate.contexts as verb
from pipelines.artifacts.trained_model import TrainedModel, load_trained_model
from pipelines.evaluate.contexts import PUBLISHED, contexts
from pipelines.recipes import load_recipe
from seqgen.core.errors import BadInput
from seqgen.data.batches import fixed_set, generator_at
from seqgen.data.images import load_split
from seqgen.evaluation import bounds
from seqgen.evaluation.errors import difference_values, estimate
from seqgen.models import load_model
from tests.finished_run import finished_run, tiny_recipe, work_in

CPU = torch.device("cpu")


@pytest.fixture
def trained(tmp_path, monkeypatch) -> TrainedModel:
    """A tiny run that was given 0 to 2 contexts, with 16 test images of 4 characters; 5 images a part."""
    work_in(tmp_path, monkeypatch)
    monkeypatch.setattr(verb, "_PART", 5)
    trained = finished_run(tiny_recipe(tmp_path, conditional=True, contexts=[0, 1, 2]))
    model = load_model(trained.model)
    with torch.no_grad():  # far from its start, where the context hardly matters
        for parameter in model.parameters():
            parameter.mul_(2)
    from seqgen.models import save_model

    save_model(model, trained.model)
    return load_trained_model("tiny.yaml")


def measure(trained: TrainedModel, counts: str = "0,1,2", samples: int = 7, images: int = 12) -> dict:
    contexts(f"{trained.recipe.name}.yaml", None, counts, samples, images)
    return json.loads((trained.places.one_shot / "contexts.json").read_text())


def kept(trained: TrainedModel) -> list[Path]:
    return sorted(path for path in (trained.places.one_shot / "contexts").rglob("*.npy"))


@torch.no_grad()
def test_nll_and_gains_are_those_of_a_plain_loop(trained):
    entries = measure(trained)["entries"]
    model, data = load_model(trained.model), trained.recipe.data
    images = load_split(trained.places.shards, "test")
    x, partners = fixed_set(images, data, True, 0, contexts=2)
    x = x.unsqueeze(1).float()
    order = torch.randperm(16, generator=generator_at(CPU, 0, "contexts subset"))[:12]
    values = {}
    for count in (0, 1, 2):
        held_out = bounds.hold_out(images, data, True, 0, contexts=2).with_contexts(count)
        free = bounds.free_energies(model, held_out, 0).free_energy
        weighted = []
        for place, image in enumerate(order.tolist()):
            if place % 5 == 0:
                generator = generator_at(CPU, 0, "importance", place // 5)
            shown = partners[image, :count]
            assert image not in shown
            assert (images.concepts[shown] == images.concepts[image]).all()
            context = x[shown, 0].unsqueeze(0)
            noise = model.noise(7, generator)
            total = []
            for sample in range(7):
                one = model.infer(x[image : image + 1], context, noise[:, sample : sample + 1])
                prior = torch.distributions.Normal(0.0, 1.0).log_prob(one.z).sum().item()
                posterior = one.posterior.log_prob(one.z).sum().item()
                total.append(one.likelihood.log_prob(x[image : image + 1]).item() + prior - posterior)
            weighted.append(math.log(7) - torch.tensor(total, dtype=torch.float64).logsumexp(0).item())
        values[count] = free, torch.tensor(weighted, dtype=torch.float64)
        expected = estimate(difference_values(free, values[count][1], order), images.concepts)
        entry = entries[f"nll_{count}_context"]
        assert (entry["value"], entry["se"]) == pytest.approx(expected, rel=1e-5)
        assert (entry["images"], entry["k"], entry["se_by_alphabet"]) == (12, 7, None)
        entry = entries[f"free_energy_{count}_context"]
        assert (entry["value"], entry["se"]) == pytest.approx(estimate(free, images.concepts))
        assert entry["images"] == 16
    for count in (1, 2):
        gains = (none - given for none, given in zip(values[0], values[count], strict=True))
        gain = estimate(difference_values(*gains, order), images.concepts)
        entry = entries[f"gain_{count}_context"]
        assert (entry["value"], entry["se"]) == pytest.approx(gain, rel=1e-4)
    assert entries["foreign_context_cost"]["images"] == 16


def test_the_foreign_cost_is_the_evaluations(trained):
    entries = measure(trained)["entries"]
    held_out = bounds.hold_out(load_split(trained.places.shards, "test"), trained.recipe.data, True, 0)
    metrics = bounds.measure(load_model(trained.model), held_out, trained.recipe.evaluate).metrics
    assert entries["foreign_context_cost"]["value"] == pytest.approx(metrics["foreign_context_cost"])
    assert entries["foreign_context_cost"]["se"] == pytest.approx(metrics["foreign_context_cost_se"])
    assert entries["free_energy_1_context"]["value"] == pytest.approx(metrics["bound"])


def test_a_second_run_goes_on_and_ends_with_the_same_bytes(trained, monkeypatch):
    whole = measure(trained)
    files = {path.name: path.read_bytes() for path in kept(trained)}
    assert {f"{kind}-{count}.npy" for kind in ("nll-k7", "free-energy") for count in (0, 1, 2)} < set(files)
    for path in kept(trained):
        path.unlink()

    measured, calls = bounds.importance_bounds, []

    def stop_at_the_fifth(*arguments, **options):
        calls.append(options["part"])
        if len(calls) == 5:
            raise KeyboardInterrupt
        return measured(*arguments, **options)

    monkeypatch.setattr(bounds, "importance_bounds", stop_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        measure(trained)
    assert calls == [0, 1, 2, 0, 1]
    assert {path.name for path in kept(trained)} == {
        "free-energy-0.npy",
        "free-energy-1.npy",
        "nll-k7-0.npy",
        "nll-k7-1.npy",
    }
    assert measure(trained) == whole
    assert calls[5:] == [1, 2, 0, 1, 2]
    assert {path.name: path.read_bytes() for path in kept(trained)} == files
    assert measure(trained) == whole
    assert len(calls) == 10


def test_more_images_add_to_what_is_kept_and_other_choices_do_not(trained, monkeypatch):
    fewer = measure(trained, "1", images=7)
    measured, calls = bounds.importance_bounds, []

    def count(model, held_out, samples, *arguments, **options):
        calls.append((options["part"], len(held_out)))
        return measured(model, held_out, samples, *arguments, **options)

    monkeypatch.setattr(bounds, "importance_bounds", count)
    more = measure(trained, "1", images=12)
    assert calls == [(1, 5), (2, 2)]
    again = measure(trained, "1", images=7)  # of a larger batch, which may round otherwise
    assert again["about"] == fewer["about"]
    for name, entry in fewer["entries"].items():
        assert again["entries"][name]["value"] == pytest.approx(entry["value"], rel=1e-6)
    assert len(calls) == 2
    measure(trained, "1", samples=3, images=12)
    assert len(calls) == 5
    assert measure(trained, "1", images=12) == more
    assert len(calls) == 5


def test_what_was_measured_on_other_weights_is_measured_again(trained):
    before = measure(trained, "1")
    old = kept(trained)
    model = load_model(trained.model)
    with torch.no_grad():
        model.step.canvas0.add_(1)
    from seqgen.models import save_model

    save_model(model, trained.model)
    measure(trained, "1")
    assert set(old) < set(kept(trained))  # a process that measures the others may be at it
    for path in old:
        for directory in (path.parent, path.parent.parent):
            os.utime(directory, (0, 0))
    after = measure(trained, "1")
    assert after["weights"] == load_trained_model("tiny.yaml").weights != before["weights"]
    assert after["entries"]["nll_1_context"]["value"] != before["entries"]["nll_1_context"]["value"]
    assert not any(path.exists() for path in old)


def test_no_contexts_are_left_out_where_there_were_always_some_and_more_than_trained_with_are_named(
    tmp_path, monkeypatch, capsys
):
    work_in(tmp_path, monkeypatch)
    trained = finished_run(tiny_recipe(tmp_path, conditional=True))
    table = measure(trained, "0,1,3", samples=2, images=4)
    assert {name for name in table["entries"] if name.startswith("nll")} == {"nll_1_context", "nll_3_context"}
    assert not any(name.startswith("gain") for name in table["entries"])
    notes = " ".join(table["about"]["notes"])
    assert "0 contexts left out" in notes
    assert "3 contexts: more than the 1 it was trained with" in notes
    assert "not what the right one is worth against none" in notes
    assert "0 contexts left out" in capsys.readouterr().out
    assert table["about"]["published"] == []  # neither the set nor the rule is theirs
    assert table["about"]["options"] == "--contexts 1,3 --samples 2 --images 4"


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ("one", r"--contexts=one: numbers of contexts are needed"),
        ("-1,1", r"--contexts=-1,1"),
        ("0", r"--contexts=0: tiny was trained with 1"),
        ("4", r"4 contexts were asked for, and an image of the set has 3"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path, monkeypatch, counts, message):
    work_in(tmp_path, monkeypatch)
    trained = finished_run(tiny_recipe(tmp_path, conditional=True))
    with pytest.raises(BadInput, match=message):
        measure(trained, counts)
    assert not trained.places.one_shot.exists()


def test_an_unconditional_model_is_refused(tmp_path, monkeypatch):
    work_in(tmp_path, monkeypatch)
    trained = finished_run(tiny_recipe(tmp_path))
    with pytest.raises(BadInput, match=r"model\.conditional=false"):
        measure(trained, "1")


def test_published_numbers_stand_only_beside_their_data(tmp_path):
    recipe = load_recipe(str(tiny_recipe(tmp_path, conditional=True)))
    theirs = {"source": "omniglot", "size": 28, "split": "30-20", "rule": "nearest"}

    def shown(data: dict, **train) -> bool:
        changed = recipe.data.model_copy(update={**theirs, **data})
        return verb._is_published(
            recipe.model_copy(update={"data": changed, "train": recipe.train.model_copy(update=train)})
        )

    assert shown({})
    assert not any(shown(other) for other in ({"size": 52}, {"split": "weak"}, {"rule": "strokes"}))
    assert not shown({"source": "omniglot-strokes"})
    assert not shown({}, pairs="alphabet")
    assert {one["model"]: one["nll"].get("1") for one in PUBLISHED} == {
        "VMA": 86.5,
        "GMN, trained with 1 context": 82.8,
    }
