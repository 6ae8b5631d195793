"""Real processes, killed and resumed, alone and together: the same bits, or the same up to rounding."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
EPOCHS = 5


def start(
    out: Path, rank: int = 0, size: int = 1, resume: Path | None = None, bits: bool = False
) -> subprocess.Popen[str]:
    out.mkdir(exist_ok=True)
    where = str(resume) if resume else None
    task = {"out": str(out), "rank": rank, "size": size, "resume": where, "bits": bits}
    command = [sys.executable, "-m", "tests.training.child", json.dumps(task)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def train(out: Path, size: int = 1, resume: Path | None = None, bits: bool = False) -> Path:
    """Train to the end on `size` processes; with `bits` Bernoulli latents, by the score function."""
    children = [start(out, rank, size, resume, bits) for rank in range(size)]
    assert [child.wait() for child in children] == [0] * size
    return out


def kill_after_epoch(out: Path, epoch: int, size: int = 1) -> Path:
    """Train, kill every process with SIGKILL once `epoch` is saved, return the last complete checkpoint."""
    children = [start(out, rank, size) for rank in range(size)]
    assert children[0].stdout is not None
    for line in children[0].stdout:
        if int(line) == epoch:
            break
    for child in children:
        child.kill()
    assert all(child.wait() == -9 for child in children)
    return max(out.glob("epoch-*/index.json")).parent


def weights(out: Path, rank: int = 0) -> dict[str, torch.Tensor]:
    return torch.load(out / f"weights-{rank}.pt", weights_only=True)


def metrics(out: Path, rank: int = 0) -> list[dict[str, float]]:
    timed = {"seconds", "images_per_second"}
    rows = json.loads((out / f"metrics-{rank}.json").read_text())
    return [{key: value for key, value in row.items() if key not in timed} for row in rows]


def assert_same_bits(first: Path, second: Path) -> None:
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    assert [name for name in one if not one[name].equal(two[name])] == []


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that nothing disturbed."""
    return train(tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("epoch", [1, EPOCHS])
def test_a_killed_run_goes_on_to_the_same_bits(alone: Path, tmp_path: Path, epoch: int):
    resume = kill_after_epoch(tmp_path / "killed", epoch)
    again = train(tmp_path / "again", resume=resume)
    assert_same_bits(alone, again)
    done = int(resume.name.removeprefix("epoch-"))
    assert epoch <= done <= EPOCHS
    assert metrics(again) == metrics(alone)[done:]


def test_two_processes_follow_the_trajectory_of_one(alone: Path, tmp_path: Path):
    together = train(tmp_path, size=2)
    assert metrics(together, 0) == metrics(together, 1)
    for one, two in zip(metrics(alone), metrics(together), strict=True):
        assert two == pytest.approx(one, rel=2e-4)
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(together)[name], tensor, rtol=1e-3, atol=1e-4)
        assert weights(together, 1)[name].equal(weights(together, 0)[name])


def test_bits_are_learned_alike_by_one_process_and_by_two(tmp_path: Path):
    """The baseline's running mean and deviation are of all images, and not of a rank's."""
    one, two = train(tmp_path / "one", bits=True), train(tmp_path / "two", size=2, bits=True)
    expected, found = weights(one), weights(two)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=2e-4, rtol=1e-3)


@pytest.mark.slow
def test_three_killed_processes_go_on_to_the_same_bits(tmp_path: Path):
    # With three the order of a sum matters, which with two it does not.
    whole = train(tmp_path / "whole", size=3)
    again = train(tmp_path / "again", size=3, resume=kill_after_epoch(tmp_path / "killed", 2, size=3))
    assert_same_bits(whole, again)


@pytest.mark.slow
def test_a_run_of_two_goes_on_with_one(alone: Path, tmp_path: Path):
    resume = kill_after_epoch(tmp_path / "killed", 2, size=2)
    again = train(tmp_path / "again", size=1, resume=resume)
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(again)[name], tensor, rtol=1e-3, atol=1e-4)
