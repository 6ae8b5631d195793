"""One-shot classification: log-likelihoods by a plain loop, scores by their definition, background runs, the verb."""

from __future__ import annotations

import json
import math
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import data_prep.sources
from data_prep.omniglot import content_digest
from data_prep.sources import RawFile
from pipelines.artifacts.trained_model import TrainedModel, load_trained_model
from pipelines.evaluate.classify import classify, measure_accuracies
from seqgen.core.errors import BadInput, NumericalError, StoppedEarly
from seqgen.data.batches import generator_at
from seqgen.data.images import ImageSet, load_split
from seqgen.evaluation import classification
from seqgen.evaluation.classification import Evidence, Run, background_runs, evidence, scores, turned
from seqgen.models import SequentialModel, build, load_model, save_model
from seqgen.settings import ModelConfig
from tests.finished_run import finished_run, tiny_recipe, work_in

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> SequentialModel:
    """A conditional model of 4 x 4 pixels, far from its start, where the context hardly matters."""
    torch.manual_seed(1)
    config = ModelConfig(
        steps=2,
        latents=2,
        hidden=6,
        attention="full",
        canvas="additive",
        posterior_hidden=5,
        conditional=True,
    )
    made = build(config, 4, 4, 0.3).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(2)
    return made


@pytest.fixture
def run() -> Run:
    """3 test drawings, 5 candidates."""
    generator = torch.Generator().manual_seed(2)
    drawings = torch.randint(0, 2, (8, 4, 4), generator=generator, dtype=torch.uint8)
    return Run("r", drawings[:3], drawings[3:], torch.tensor([4, 0, 2]))


@torch.no_grad()
def plain_bound(
    model: SequentialModel, x: torch.Tensor, contexts: list[torch.Tensor], noise: torch.Tensor
) -> float:
    """log (1/k) sum p(x, z) / q(z | x), one sample at a time, with torch's densities; images [4,4]."""
    context = torch.stack(contexts).float().unsqueeze(0) if contexts else x.new_zeros(1, 0, 4, 4).float()
    image, terms = x.float().view(1, 1, 4, 4), []
    for sample in range(noise.shape[1]):
        one = model.infer(image, context, noise[:, sample : sample + 1])
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(one.z).sum().item()
        log_weight = (
            one.likelihood.log_prob(image).item() + prior - one.posterior.log_prob(one.z).sum().item()
        )
        terms.append(log_weight)
    return torch.tensor(terms, dtype=torch.float64).logsumexp(0).item() - math.log(len(terms))


@pytest.mark.parametrize("null", [True, False])
@pytest.mark.parametrize("at_once", [250, 17, 3])
def test_evidence_is_that_of_a_plain_loop_in_any_memory(model, run, monkeypatch, null, at_once):
    monkeypatch.setattr(classification, "_PASSES", at_once)
    done: list[int] = []
    found = evidence(model, run, 7, 5, null=null, advance=done.append)
    assert sum(done) == classification.passes(run, 7, null)
    assert found.of_test.dtype == torch.float64
    for view in (0, 5):
        test, training = turned(run.test, view), turned(run.training, view)

        def noise(side: str, number: int, view: int = view) -> torch.Tensor:
            return model.noise(7, generator_at(CPU, 5, "classification", "r", view, side, number))

        for i, x in enumerate(test):
            expected = [plain_bound(model, x, [context], noise("test", i)) for context in training]
            assert found.of_test[view, i].tolist() == pytest.approx(expected, abs=1e-4)
        for j, x in enumerate(training):
            expected = [plain_bound(model, x, [context], noise("training", j)) for context in test]
            assert found.of_training[view, :, j].tolist() == pytest.approx(expected, abs=1e-4)
            if null:
                alone = plain_bound(model, x, [], noise("training", j))
            else:
                others = [training[other] for other in range(5) if other != j]
                each = [plain_bound(model, x, [other], noise("training", j)) for other in others]
                alone = math.log(sum(map(math.exp, each)) / 4)
            assert found.alone[view, j].item() == pytest.approx(alone, abs=1e-4)


def test_the_scores_are_their_definition(run):
    generator = torch.Generator().manual_seed(3)
    found = Evidence(
        *(torch.randn(8, *shape, generator=generator).double() for shape in ((3, 5), (3, 5), (5,)))
    )
    of = scores(found)
    for i in range(3):
        for j in range(5):
            forward, backward, alone = found.of_test[:, i, j], found.of_training[:, i, j], found.alone[:, j]
            two_way = [(forward[v] + backward[v] - alone[v]).item() for v in range(8)]
            assert of["two_way"][i, j].item() == pytest.approx(two_way[0])
            assert of["two_way_views"][i, j].item() == pytest.approx(sum(two_way) / 8)
            assert of["one_way"][i, j].item() == forward[0].item()
            assert of["one_way_views"][i, j].item() == pytest.approx(forward.mean().item())
    for name, right in classification.right([run, run], [found, found]).items():
        expected = [of[name][i].argmax().item() == run.answers[i].item() for i in range(3)]
        assert right.tolist() == expected * 2


def test_the_views_are_the_eight_symmetries_of_a_square():
    image = torch.arange(9).view(1, 3, 3)
    seen = {tuple(turned(image, view).flatten().tolist()) for view in range(classification.VIEWS)}
    square = image[0].numpy()
    expected = {
        tuple(np.rot90(mirrored, turns).flatten().tolist())
        for mirrored in (square, square.T)
        for turns in range(4)
    }
    assert seen == expected
    assert turned(image, 0).equal(image)


def test_a_model_that_is_not_finite_is_an_error(model, run):
    broken = build(model.config, 4, 4, 0.3)
    with torch.no_grad():
        next(broken.parameters()).fill_(math.nan)
    with pytest.raises(NumericalError, match="r: a log-likelihood is not finite"):
        evidence(broken, run, 2, 0, null=True)


def images_of(characters: dict[str, int], first: int) -> ImageSet:
    """Characters by alphabet, 6 drawings each, whose pixels spell (number of the character, drawer)."""
    names, drawings, concepts = [], [], []
    for alphabet, count in characters.items():
        for number in range(first, first + count):
            drawn = torch.zeros(6, 2, 2, dtype=torch.uint8)
            drawn[:, 0, 0], drawn[:, 0, 1], drawn[:, 1, 0] = number, torch.arange(6), ord(alphabet)
            concepts += [len(names)] * 6
            names.append(f"{alphabet}/{number:03d}")
            drawings.append(drawn)
    index = torch.tensor(concepts)
    return ImageSet(torch.cat(drawings), 2, index, torch.zeros_like(index), tuple(names))


def test_background_runs_ask_for_unseen_characters_among_those_of_their_alphabet():
    train = images_of({"A": 30, "B": 18, "C": 5, "D": 25}, 0)
    valid = images_of({"A": 3, "B": 2, "C": 4}, 100)  # C has 9 characters, D none that was not trained on
    runs = background_runs(train, valid, 7, 3)
    assert [(run.name, len(run.test), len(run.training)) for run in runs] == [
        (f"background-{alphabet}-{pair}", count, 20)
        for alphabet, count in (("A", 3), ("B", 2))
        for pair in range(3)
    ]
    drawers = set()
    for run in runs:
        alphabet = ord(run.name.split("-")[1])
        assert (torch.cat([run.test, run.training])[:, 1, 0] == alphabet).all()
        assert sorted(run.test[:, 0, 0].tolist()) == list(range(100, 100 + len(run.test)))
        assert len(set(run.training[:, 0, 0].tolist())) == 20
        assert run.training[run.answers, 0, 0].equal(run.test[:, 0, 0])
        (tester,), (trainer,) = (set(part[:, 0, 1].tolist()) for part in (run.test, run.training))
        assert tester != trainer
        drawers.add((tester, trainer))
    assert len(drawers) > 1
    again = background_runs(train, valid, 7, 3)
    assert all(
        a.training.equal(b.training) and a.test.equal(b.test) for a, b in zip(runs, again, strict=True)
    )
    assert not all(
        a.training.equal(b.training) for a, b in zip(runs, background_runs(train, valid, 8, 3), strict=True)
    )
    with pytest.raises(BadInput, match="no alphabet has 20 characters"):
        background_runs(images_of({"A": 5}, 0), valid, 7, 3)


@pytest.fixture
def trained(tmp_path, monkeypatch) -> TrainedModel:
    """A tiny run; an alphabet of its set has 4 characters, and so has a run; two views."""
    work_in(tmp_path, monkeypatch)
    monkeypatch.setattr(classification, "WAYS", 4)
    monkeypatch.setattr(classification, "VIEWS", 2)
    finished = finished_run(tiny_recipe(tmp_path, conditional=True, contexts=[0, 1]))
    model = load_model(finished.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    save_model(model, finished.model)
    return load_trained_model("tiny.yaml")


def of_test_split(trained: TrainedModel) -> list[Run]:
    """Four runs of the test split's 4 characters."""
    images = load_split(trained.places.shards, "test").images.view(4, 4, 28, 28)
    order = torch.tensor([2, 0, 3, 1])
    return [Run(f"run{n}", images[:, n], images[order, (n + 1) % 4], order.argsort()) for n in range(4)]


def test_the_verb_counts_what_is_right_and_goes_on_where_it_was_stopped(trained, monkeypatch):
    lake = of_test_split(trained)
    entries, about = measure_accuracies(trained, lake, 3)
    model, background = load_model(trained.model), []
    sets = (load_split(trained.places.shards, split) for split in ("train", "valid"))
    rights = []
    for runs in (background := background_runs(*sets, 0, 2), lake):
        found = [evidence(model, run, 3, 0, null=True) for run in runs]
        rights.append(classification.right(runs, found))
    assert {name.removeprefix("background_accuracy_") for name in entries if "background" in name} == set(
        rights[0]
    )
    for name, right in rights[0].items():
        assert entries[f"background_accuracy_{name}"]["value"] == pytest.approx(100 * right.mean().item())
    chosen = max(rights[0], key=lambda name: rights[0][name].mean())
    assert about["best"] == chosen
    for name, score in (("lake_accuracy", "two_way"), ("lake_accuracy_best", chosen)):
        right = 100 * rights[1][score]
        assert entries[name]["value"] == pytest.approx(right.mean().item())
        by_run = (right - right.mean()).view(4, 4).sum(1)
        assert entries[name]["se"] == pytest.approx(math.sqrt(4 / 3 * by_run.square().sum()) / 16)
        by_alphabet = by_run.view(2, 2).sum(1)
        expected = math.sqrt(2 * by_alphabet.square().sum()) / 16
        assert entries[name]["se_by_alphabet"] == pytest.approx(expected)
        assert (entries[name]["images"], entries[name]["k"]) == (16, 3)

    files = sorted((trained.places.one_shot / "classify").rglob("*.npy"))
    assert len(files) == len(background) + 4
    asked: list[str] = []
    measured = classification.evidence
    monkeypatch.setattr(
        classification,
        "evidence",
        lambda model, run, *more, **how: asked.append(run.name) or measured(model, run, *more, **how),
    )
    assert measure_accuracies(trained, lake, 3) == (entries, about)
    assert asked == []
    files[-1].unlink()
    np.save(files[0], np.zeros((1, 2)))
    assert measure_accuracies(trained, lake, 3) == (entries, about)
    assert asked == [files[0].stem, files[-1].stem]

    save_model(build(model.config, 28, 28, 0.2), trained.model)
    measure_accuracies(load_trained_model("tiny.yaml"), lake, 3)
    after = set((trained.places.one_shot / "classify").rglob("*.npy")) - set(files)
    assert len(after) == len(files)


def test_a_stop_costs_one_run_at_most(trained, monkeypatch):
    def stopped(*_: object, **__: object) -> Evidence:
        raise StoppedEarly("stopped by SIGTERM")

    lake, measured = of_test_split(trained), classification.evidence
    calls = iter([measured] * 3 + [stopped])
    monkeypatch.setattr(classification, "evidence", lambda *given, **how: next(calls)(*given, **how))
    with pytest.raises(StoppedEarly):
        measure_accuracies(trained, lake, 2)
    assert len(list((trained.places.one_shot / "classify").rglob("*.npy"))) == 3


def real(trained: TrainedModel, **changes: dict) -> str:
    """The recipe and what it left, made to say that the set is Omniglot itself."""
    tree = json.loads((trained.places.train / "recipe.json").read_text())
    recipe = yaml.safe_load(Path("tiny.yaml").read_text())
    for one in (tree, recipe):
        one["data"]["source"] = "omniglot"
        for section, values in changes.items():
            one[section].update(values)
    (trained.places.train / "recipe.json").write_text(json.dumps(tree))
    Path("tiny.yaml").write_text(yaml.safe_dump(recipe))
    return "tiny.yaml"


def archive_of_runs(path: Path) -> RawFile:
    """Lake's layout with random drawings."""
    random, path = np.random.default_rng(0), path / "omniglot" / "all_runs.zip"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for run in range(1, 21):
            for name in (
                *(f"test/item{n:02d}" for n in range(1, 21)),
                *(f"training/class{n:02d}" for n in range(1, 21)),
            ):
                stream = BytesIO()
                Image.fromarray(random.integers(0, 2, (105, 105), dtype=np.uint8) * 255).convert("1").save(
                    stream, "PNG"
                )
                archive.writestr(f"run{run:02d}/{name}.png", stream.getvalue())
            labels = [
                f"run{run:02d}/test/item{n:02d}.png run{run:02d}/training/class{n:02d}.png"
                for n in range(1, 21)
            ]
            archive.writestr(f"run{run:02d}/class_labels.txt", "\n".join(labels))
    return RawFile("omniglot", "all_runs.zip", (), ("0" * 64,), content_digest(path))


def test_the_verb_fetches_the_runs_from_the_mirror_and_writes_its_table(
    trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(classification, "VIEWS", 1)
    recipe = real(trained)
    monkeypatch.setattr(data_prep.sources, "LAKE_RUNS", archive_of_runs(tmp_path / "mirror"))
    monkeypatch.setenv("SEQGEN_MIRROR", str(tmp_path / "mirror"))
    classify(recipe, None, 1)
    table = json.loads((trained.places.one_shot / "classify.json").read_text())
    assert table["entries"]["lake_accuracy"]["images"] == table["about"]["decisions"] == 400
    assert table["weights"] == trained.weights
    assert (trained.places.one_shot / "raw/omniglot/all_runs.zip").is_file()
    assert not trained.places.raw.exists()  # it is the fetch stage's
    assert "people (Lake et al. 2015): 95.5 %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"data": {"source": "omniglot-strokes"}},
            "data.source=omniglot-strokes: Lake's runs are drawings of Omniglot",
        ),
        ({"data": {"split": "weak"}}, "data.split=weak trains on characters that are in Lake's runs"),
        ({"data": {"split": "40-10"}}, "data.split=40-10 trains on characters that are in Lake's runs"),
        ({"train": {"pairs": "alphabet"}}, "train.pairs=alphabet"),
        ({"model": {"conditional": False}, "train": {"contexts": [1]}}, "model.conditional=false"),
    ],
)
def test_what_cannot_be_classified_is_refused_before_anything_is_fetched(trained, changes, problem):
    recipe = real(trained, **changes)
    with pytest.raises(BadInput, match=problem):
        classify(recipe, None, 1)
    assert not trained.places.one_shot.exists()


def test_a_set_of_digits_is_refused(tmp_path, monkeypatch):
    work_in(tmp_path, monkeypatch)
    finished_run(tiny_recipe(tmp_path))
    with pytest.raises(BadInput, match=r"data\.source=mnist-5k"):
        classify("tiny.yaml", None, 1)
    assert load_trained_model("tiny.yaml").recipe.data.source == "mnist-5k"
