"""A model on disk: the same numbers back, and nothing that runs code."""

from __future__ import annotations

import json
import pickle

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
    x, noise = torch.rand(4, 1, 9, 9).round(), torch.randn(model.noise_shape(4))
    again = load_model(directory)
    assert torch.equal(model(x, x, noise).log_likelihood, again(x, x, noise).log_likelihood)
    assert again.mean == model.mean
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
