"""The pixel predictor against enumeration and a plain loop, and the verb that compares a model with it."""

from __future__ import annotations

import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.shard_set import shard_set
from pipelines.evaluate.complexity import complexity
from pipelines.evaluate.gap import gap
from seqgen.data.images import load_split
from seqgen.data.settings import DataConfig
from seqgen.evaluation import bounds, errors
from seqgen.evaluation.neighbours import fit_pixel_predictor
from seqgen.models import load_model
from tests.finished_run import finished_run, tiny_recipe, work_in

# Drawn as a picture: the pixels before the predicted one (x) that it is predicted from.
TEMPLATE = (".###.", "#####", "##x..")


def some_images(count: int = 40, height: int = 4, width: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 2, (count, 1, height, width), generator=generator, dtype=torch.uint8)
    images[:, :, 1:] |= images[:, :, :-1] & (torch.rand(images[:, :, 1:].shape, generator=generator) < 0.7)
    return images


def neighbours(image: np.ndarray, row: int, column: int) -> tuple[int, ...]:
    """The values of the template's pixels, 0 outside of the image."""
    return tuple(
        int(image[row + down - 2, column + right - 2])
        if row + down >= 2 and 0 <= column + right - 2 < image.shape[1]
        else 0
        for down, line in enumerate(TEMPLATE)
        for right, mark in enumerate(line)
        if mark == "#"
    )


def test_nats_are_those_of_counting_in_a_plain_loop():
    images, others = some_images(), some_images(60)[40:]
    counts: dict[tuple[int, ...], list[int]] = {}
    for image in images[:, 0].numpy():
        for row, column in itertools.product(range(4), range(3)):
            counts.setdefault(neighbours(image, row, column), [1, 1])[image[row, column]] += 1
    expected = []
    for image in others[:, 0].numpy():
        total = 0.0
        for row, column in itertools.product(range(4), range(3)):
            blank, ink = counts.get(neighbours(image, row, column), [1, 1])
            total -= math.log((ink if image[row, column] else blank) / (blank + ink))
        expected.append(total)
    found = fit_pixel_predictor(images).nats(others)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert all(len(known) == 10 for known in counts)


def test_it_is_a_distribution():
    """Over all 4,096 images of 4x3 pixels."""
    every = torch.tensor(list(itertools.product((0, 1), repeat=12)), dtype=torch.uint8).view(-1, 1, 4, 3)
    predictor = fit_pixel_predictor(some_images())
    assert predictor.nats(every).neg().exp().sum().item() == pytest.approx(1)
    other = fit_pixel_predictor(some_images(height=5, width=4))
    assert other.nats(every).neg().exp().sum().item() == pytest.approx(1)


def test_images_like_those_it_was_fitted_on_cost_less_than_noise():
    images = some_images(400, 9, 9)
    noise = torch.randint(0, 2, images.shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    predictor = fit_pixel_predictor(images[:300])
    assert predictor.nats(images[300:]).mean() < predictor.nats(noise).mean() - 5


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A tiny conditional run with an untrained model."""
    work_in(tmp_path, monkeypatch)
    return finished_run(tiny_recipe(tmp_path, conditional=True))


def read(trained, verb: str) -> dict:
    return json.loads((trained.places.one_shot / f"{verb}.json").read_text())


def test_complexity_compares_the_models_difference_with_the_predictors(trained, tmp_path):
    complexity(str(tmp_path / "tiny.yaml"))
    table = read(trained, "complexity")
    assert table["weights"] == trained.weights
    entries = {name: entry["value"] for name, entry in table["entries"].items()}

    sets = {split: load_split(trained.places.shards, split) for split in ("train", "valid", "test")}
    held_out = {split: bounds.hold_out(one, trained.recipe.data, True, 0) for split, one in sets.items()}
    model, predictor = load_model(trained.model), fit_pixel_predictor(held_out["train"].x)
    pays = {split: predictor.nats(one.x) for split, one in held_out.items()}
    free = {split: bounds.free_energies(model, held_out[split], 0).free_energy for split in ("valid", "test")}
    for split in pays:
        assert entries[f"pixel_predictor_{split}"] == pytest.approx(pays[split].mean().item())
    measured = (free["test"].mean() - free["valid"].mean()).item()
    gauge = (pays["test"].mean() - pays["valid"].mean()).item()
    assert entries["free_energy_test_less_valid"] == pytest.approx(measured)
    assert entries["pixel_predictor_test_less_valid"] == pytest.approx(gauge)
    assert entries["share_explained"] == pytest.approx(gauge / measured)
    assert entries["free_energy_less_predictor_test_less_valid"] == pytest.approx(measured - gauge)
    assert entries["explained_by_regression"] == pytest.approx(entries["slope"] * gauge)
    assert entries["left_by_regression"] == pytest.approx(measured - entries["slope"] * gauge)
    assert table["entries"]["share_explained"]["unit"] == "share"
    # Two alphabets in train, one in valid and one in test, of which none has an error by alphabet.
    by_alphabet = {name for name, entry in table["entries"].items() if entry["se_by_alphabet"] is not None}
    assert by_alphabet == {"pixel_predictor_train"}
    assert table["about"]["errors_train"]["alphabets"] == 2


def test_gap_measures_the_three_splits_alike(trained, tmp_path, capsys):
    gap(
        str(tmp_path / "tiny.yaml"),
        ["evaluate.importance_samples=3", "evaluate.importance_images=5"],
        images=12,
    )
    table = read(trained, "gap")
    assert all(name.startswith("gap_") for name in table["entries"])
    entries = {name.removeprefix("gap_"): one for name, one in table["entries"].items()}
    names = ("free_energy", "iwae", "pixel_predictor", "free_energy_less_predictor")
    parts = ("train", "valid", "test", "valid_less_train", "test_less_valid")
    assert set(entries) == {f"{name}_{part}" for name in names for part in parts}
    assert entries["free_energy_train"]["images"] == 12
    assert (entries["iwae_test"]["images"], entries["iwae_test"]["k"]) == (5, 3)
    for name in names:
        difference = entries[f"{name}_test"]["value"] - entries[f"{name}_valid"]["value"]
        assert entries[f"{name}_test_less_valid"]["value"] == pytest.approx(difference)
    assert entries["iwae_train"]["value"] < entries["free_energy_train"]["value"] + 1

    held_out = bounds.hold_out(load_split(trained.places.shards, "valid"), trained.recipe.data, True, 0)
    chosen = held_out.take(bounds.subset(16, 12, 0, "gap valid"))
    free = bounds.free_energies(load_model(trained.model), chosen, 0).free_energy
    assert entries["free_energy_valid"]["value"] == pytest.approx(free.mean().item())
    assert entries["free_energy_valid"]["se"] == pytest.approx(errors.estimate(free, chosen.concepts).se)
    assert "gap_free_energy_test_less_valid" in capsys.readouterr().out


def test_an_unconditional_model_of_digits_is_compared_too(tmp_path, monkeypatch):
    work_in(tmp_path, monkeypatch)
    trained = finished_run(tiny_recipe(tmp_path))
    complexity(str(tmp_path / "tiny.yaml"))
    entries = read(trained, "complexity")["entries"]
    assert entries["free_energy_test"]["images"] == 20
    assert entries["pixel_predictor_test_less_valid"]["se"] > 0


@pytest.fixture
def real_data() -> Path:
    path = Path(os.environ.get("SEQGEN_TEST_DATA", ""))
    if not (path / "omniglot" / "images_background.zip").is_file():
        pytest.skip("the real data is not here (SEQGEN_TEST_DATA names its folder)")
    return path


def test_evaluation_alphabets_of_omniglot_are_more_complex(real_data: Path, tmp_path: Path):
    """At 28x28 by the nearest rule: about 75, 72 and 80 nats on train, valid and test of 30-20."""
    data = DataConfig(source="omniglot", size=28, split="30-20", rule="nearest", binarise="static")
    shard_set(data, real_data, tmp_path / "set")
    sets = {split: load_split(tmp_path / "set", split) for split in ("train", "valid", "test")}
    predictor = fit_pixel_predictor(sets["train"].images.unsqueeze(1))
    nats = {split: predictor.nats(one.images.unsqueeze(1)).mean().item() for split, one in sets.items()}
    assert nats == pytest.approx({"train": 75.39, "valid": 72.05, "test": 79.85}, abs=0.01)
