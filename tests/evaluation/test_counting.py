"""Counts of objects: the accuracy by a plain loop, counts of a posterior sample, the verb and what it refuses."""

from __future__ import annotations

import json
import math

import pytest
import torch
import yaml

from data_prep.fetch import fetch
from data_prep.shard_set import shard_set
from pipelines.artifacts.places import places
from pipelines.evaluate.count import count
from pipelines.recipes import load_recipe
from pipelines.tracking.runs import runs_with
from seqgen.core.errors import BadInput
from seqgen.data.batches import generator_at
from seqgen.data.images import load_split
from seqgen.evaluation.bounds import hold_out
from seqgen.evaluation.counting import count_accuracy, counter, inferred_counts
from seqgen.models import load_model
from tests.finished_run import finished_run, tiny_recipe, work_in

PRESENT = '''
from seqgen.models.contracts import register
from seqgen.models.latents import GaussianLatents


@register("latent", "signed")
class SignedLatents(GaussianLatents):
    """Gaussians; a step draws an object where its first is positive."""

    def counts(self, z):
        return (z[..., 0] > 0).sum(0)
'''


def test_accuracy_and_confusion_are_those_of_a_plain_loop():
    generator = torch.Generator().manual_seed(0)
    true = torch.randint(3, (200,), generator=generator)
    inferred = torch.randint(4, (200,), generator=generator)
    table = [[0] * 4 for _ in range(4)]
    for image in range(200):
        table[int(true[image])][int(inferred[image])] += 1
    found = count_accuracy(inferred, true)
    assert found.confusion.tolist() == table
    share = sum(table[number][number] for number in range(4)) / 200
    assert found.accuracy.mean == pytest.approx(share)
    assert found.accuracy.se == pytest.approx(math.sqrt(share * (1 - share) / 199))


def test_all_right_is_one_and_its_table_is_diagonal():
    true = torch.tensor([0, 2, 2, 1])
    found = count_accuracy(true, true)
    assert found.accuracy == (1.0, 0.0)
    assert found.confusion.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 2]]


def test_counts_of_other_images_are_refused():
    with pytest.raises(ValueError, match="3 inferred counts for 2 images"):
        count_accuracy(torch.tensor([0, 1, 2]), torch.tensor([0, 1]))
    with pytest.raises(BadInput, match="at least 2 images"):
        count_accuracy(torch.tensor([1]), torch.tensor([1]))


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Make a tiny run of canvases, an untrained model; with `latent` signed it counts."""
    work_in(tmp_path, monkeypatch)
    (tmp_path / "signed_latents.py").write_text(PRESENT)
    monkeypatch.syspath_prepend(tmp_path)

    def make(digits: list[int], **model):
        path = tiny_recipe(tmp_path)
        tree = yaml.safe_load(path.read_text())
        tree["data"] = {"source": "multi-mnist-5k", "size": 50, "binarise": "static", "digits": digits}
        tree["model"] |= model
        path.write_text(yaml.safe_dump(tree))
        recipe = load_recipe(str(path))
        fetch([recipe.data.source], tmp_path / "raw", notice=lambda text: None)
        shard_set(recipe.data, tmp_path / "raw", places(recipe).shards, processes=1)
        return finished_run(path)

    return make


@torch.no_grad()
def test_the_verb_counts_a_posterior_sample_of_every_image(trained, capsys):
    run = trained([1, 2], latent="signed", plugins=["signed_latents"])
    count("tiny.yaml", ["evaluate.images=300"])
    table = json.loads((run.places.one_shot / "count.json").read_text())

    images = load_split(run.places.shards, "test")
    chosen = (
        torch.randperm(500, generator=generator_at(torch.device("cpu"), 0, "evaluated images"))[:300]
        .sort()
        .values
    )
    x = images.images[chosen].unsqueeze(1).float()
    model = load_model(run.model)
    right, confusion = 0, [[0] * 3 for _ in range(3)]
    for number, start in enumerate(range(0, 300, 250)):
        part = x[start : start + 250]
        z = model.infer(
            part, None, model.noise(len(part), generator_at(torch.device("cpu"), 0, "count", number))
        ).z
        for place in range(len(part)):
            said = sum(float(z[t, place, 0]) > 0 for t in range(2))
            true = int(images.concept_names[int(images.concepts[chosen[start + place]])])
            right += said == true
            confusion[true][said] += 1
    assert table["about"]["confusion"] == confusion
    entries = table["entries"]
    assert entries["count_accuracy"]["value"] == pytest.approx(100 * right / 300)
    assert entries["count_accuracy"]["images"] == 300
    (found,) = runs_with("tiny", "test/static/count_accuracy")
    assert found.info.run_id == run.run["run_id"]
    assert found.data.metrics["test/static/count_accuracy"] == pytest.approx(100 * right / 300)
    assert found.data.metrics["test/static/count_accuracy_se"] == pytest.approx(
        entries["count_accuracy"]["se"]
    )
    for number in (1, 2):
        of = entries[f"count_accuracy_of_{number}"]
        assert of["value"] == pytest.approx(100 * confusion[number][number] / sum(confusion[number]))
        assert of["images"] == sum(confusion[number])
    assert "count_accuracy_of_0" not in entries
    assert table["weights"] == run.weights
    printed = capsys.readouterr().out
    assert f"true 1: inferred 0 for {confusion[1][0]}, 1 for {confusion[1][1]}" in printed


def test_a_model_that_does_not_count_is_refused(trained):
    run = trained([0, 1, 2])
    with pytest.raises(BadInput, match="tiny: the latents of its model do not say what is present"):
        count("tiny.yaml")
    model = load_model(run.model)
    assert counter(model) is None
    held_out = hold_out(load_split(run.places.shards, "test"), run.recipe.data, False, 0)
    with pytest.raises(ValueError, match="do not say how many"):
        inferred_counts(model, held_out, 0)


def test_a_set_without_counts_is_refused(trained):
    trained([2], latent="signed", plugins=["signed_latents"])
    with pytest.raises(BadInput, match=r"for example, data\.digits=\[0, 1, 2\]"):
        count("tiny.yaml")
