"""Training without Ray goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.budget import train
from pipelines.artifacts.history import read_history
from pipelines.artifacts.places import places
from pipelines.recipes import load_recipe
from tests.sets import write_digits

TINY = (
    "data.source=mnist-5k",
    "data.binarise=dynamic",
    "model.steps=2",
    "model.hidden=8",
    "model.posterior_hidden=8",
    "train.batch=32",
)


class Killed(Exception):
    pass


def test_a_second_call_goes_on_from_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SEQGEN_ARTIFACTS", str(tmp_path / "artifacts"))
    recipe = load_recipe("sgm-mnist", [*TINY, "train.epochs=5", "train.checkpoint_every=2"])
    write_digits(places(recipe).shards)
    cpu = torch.device("cpu")

    train(recipe, tmp_path / "whole", cpu)
    with monkeypatch.context() as patch:
        patch.setattr("builtins.print", _killed_in_epoch_three)
        with pytest.raises(Killed):
            train(recipe, tmp_path / "cut", cpu)
    assert _epochs(tmp_path / "cut") == [1, 2]
    train(recipe, tmp_path / "cut", cpu)

    assert _epochs(tmp_path / "cut") == _epochs(tmp_path / "whole") == [1, 2, 3, 4, 5]
    weights = [(tmp_path / run / "checkpoint" / "model.safetensors").read_bytes() for run in ("cut", "whole")]
    assert weights[0] == weights[1]


def _killed_in_epoch_three(text: str, **_: object) -> None:
    if text.startswith("epoch 3"):
        raise Killed


def _epochs(directory: Path) -> list[float]:
    return [row["epoch"] for row in read_history(directory / "checkpoint" / "history.csv")]
