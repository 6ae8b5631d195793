"""A model on disk: the same numbers back, and nothing that runs code."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from seqgen.core.errors import BadInput, OperationalError
from seqgen.models import build, load_model, save_model
from seqgen.settings import ModelConfig


@pytest.fixture
def saved(tmp_path):
    model = build(ModelConfig(steps=2, hidden=8, read_size=3, write_size=3, conditional=True), 9, 9, 0.1)
    save_model(model, tmp_path / "model")
    return model, tmp_path / "model"


def test_saved_and_loaded_gives_the_same_bound(saved):
    model, directory = saved
    x, noise = torch.rand(4, 1, 9, 9).round(), model.noise(4, torch.Generator())
    again = load_model(directory)
    assert torch.equal(model(x, x, noise).log_likelihood, again(x, x, noise).log_likelihood)
    assert again.sizes == model.sizes
    assert not again.training


def test_altered_weights_are_refused_by_name(saved):
    _, directory = saved
    weights = directory / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(OperationalError, match=r"weights\.safetensors"):
        load_model(directory)


def test_missing_model_and_other_formats_are_bad_input(saved, tmp_path):
    with pytest.raises(BadInput, match="no seqgen model"):
        load_model(tmp_path / "nowhere")
    description = saved[1] / "model.json"
    value = json.loads(description.read_text())
    description.write_text(json.dumps(value | {"format": "seqgen-model-9", "version": "9.0"}))
    with pytest.raises(BadInput, match=r"made by seqgen 9\.0"):
        load_model(saved[1])


def test_a_pickle_in_place_of_weights_is_not_run(saved, tmp_path):
    class Attack:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    weights = saved[1] / "weights.safetensors"
    weights.write_bytes(pickle.dumps(Attack()))
    with pytest.raises(OperationalError):
        load_model(saved[1])
    assert not (tmp_path / "ran").exists()


GOLDENS = Path(__file__).parents[1] / "goldens" / "models-of-format-1"


@pytest.mark.parametrize("golden", sorted(GOLDENS.iterdir()), ids=lambda path: path.name)
def test_models_of_the_first_format_give_the_numbers_they_gave(golden):
    """Written by seqgen 0.1.0 as of 2026-11-24, before the kinds owned their settings, with its own bounds."""
    model, expected = load_model(golden), json.loads((golden / "expected.json").read_text())
    x = torch.tensor(expected["x"], dtype=torch.float32).view(2, 1, 8, 8)
    bound = model(x, 1 - x if model.config.conditional else None, torch.tensor(expected["noise"]))
    torch.testing.assert_close(bound.free_energy(), torch.tensor(expected["free_energy"]), rtol=1e-5, atol=0)
    torch.testing.assert_close(bound.kl, torch.tensor(expected["kl"]), rtol=1e-4, atol=1e-5)
