"""Checkpoints: complete or refused, whatever happened to their files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from seqgen.core.errors import BadInput, OperationalError
from seqgen.models.contracts import Sizes
from seqgen.objectives import Objective
from seqgen.training.checkpoint import Position, Trainee, load_average, load_checkpoint, save_checkpoint

FILES = ["model.safetensors", "average.safetensors", "objective.safetensors", "optimiser.pt"]


class Learned(Objective):
    """One that learns a baseline and keeps a mean."""

    def __init__(self) -> None:
        super().__init__(None, Sizes(1, 1, 1, 1, 1, 1, 0.5))
        self.baseline = nn.Linear(2, 1)

    def start(self) -> dict[str, torch.Tensor]:
        return {"mean": torch.zeros(())}


def trainee(seed: int, steps: int = 3) -> Trainee:
    """A small model after a few steps of Adam."""
    torch.manual_seed(seed)
    model = nn.Linear(4, 3)
    average = AveragedModel(nn.Linear(4, 3))
    average.n_averaged.fill_(steps)
    objective = Learned()
    optimiser = torch.optim.Adam([*model.parameters(), *objective.parameters()], fused=True)
    for _ in range(steps):
        model(torch.randn(5, 4)).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    return Trainee(model, average, optimiser, objective, {"mean": torch.tensor(float(seed))})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    (tmp_path / "history.csv").write_text("epoch\n1\n")
    save_checkpoint(tmp_path, trainee(0), Position(2, 6), {"a": 1, "b": "x"})
    return tmp_path


def load(directory: Path, into: Trainee | None = None) -> Position:
    return load_checkpoint(directory, into or trainee(1), {"a": 1, "b": "x"})


def test_everything_comes_back(saved: Path):
    before, after = trainee(0), trainee(1)
    assert load(saved, after) == Position(2, 6)
    for one, two in ((before.model, after.model), (before.average.module, after.average.module)):
        assert all(a.equal(b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert all(
        a.equal(b) for a, b in zip(before.objective.parameters(), after.objective.parameters(), strict=True)
    )
    assert after.state == {"mean": torch.tensor(0.0)}
    assert after.average.n_averaged == 6
    moments = [list(t.optimiser.state_dict()["state"][0].values()) for t in (before, after)]
    assert all(a.equal(b) for a, b in zip(*moments, strict=True))


def test_the_average_alone(saved: Path):
    model = nn.Linear(4, 3)
    load_average(saved, model)
    assert model.weight.equal(trainee(0).average.module.weight)


@pytest.mark.parametrize("name", [*FILES, "history.csv"])
def test_a_flipped_bit_is_found_and_the_file_named(saved: Path, name: str):
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 4
    (saved / name).write_bytes(content)
    with pytest.raises(OperationalError, match=f"{name}: missing or damaged"):
        load(saved)


@pytest.mark.parametrize("name", [*FILES, "index.json"])
def test_a_cut_or_missing_file_is_found_and_named(saved: Path, name: str):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(OperationalError, match=name):
        load(saved)
    (saved / name).unlink()
    with pytest.raises(OperationalError, match=name):
        load(saved)


def test_other_settings_are_refused_and_told_apart(saved: Path):
    with pytest.raises(BadInput, match=r"a was 1, is 2; c was None, is 3"):
        load_checkpoint(saved, trainee(1), {"a": 2, "b": "x", "c": 3})
