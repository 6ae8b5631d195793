"""Real processes, killed and resumed, alone and together: the same bits, or the same up to rounding."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.artifacts.history import OF_THE_MACHINE

ROOT = Path(__file__).parents[2]
EPOCHS, STEPS = 5, 5


def start(out: Path, rank: int = 0, size: int = 1, **task: Any) -> subprocess.Popen[str]:
    out.mkdir(exist_ok=True)
    task = {"out": str(out), "rank": rank, "size": size, **task}
    command = [sys.executable, "-m", "tests.training.child", json.dumps(task)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def train(
    out: Path,
    size: int = 1,
    resume: Path | None = None,
    code: int = 0,
    spoil: Mapping[int, list[int]] | None = None,
    **task: Any,
) -> Path:
    """Train to the end, `code`, on `size` processes; `spoil` names steps of each rank, and the rest is the child's."""
    task["resume"] = str(resume) if resume else None
    children = [start(out, rank, size, spoil=(spoil or {}).get(rank, []), **task) for rank in range(size)]
    assert [child.wait() for child in children] == [code] * size
    return out


def kill_after(out: Path, step: int, size: int = 1, **task: Any) -> Path:
    """Train, kill every process with SIGKILL once `step` is saved, return the last complete checkpoint."""
    children = [start(out, rank, size, **task) for rank in range(size)]
    assert children[0].stdout is not None
    for line in children[0].stdout:
        if int(line) >= step:
            break
    for child in children:
        child.kill()
    assert all(child.wait() == -9 for child in children)
    return newest(out)


def newest(out: Path) -> Path:
    return max(out.glob("step-*/index.json")).parent


def weights(out: Path, rank: int = 0) -> dict[str, torch.Tensor]:
    return torch.load(out / f"weights-{rank}.pt", weights_only=True)


def metrics(out: Path, rank: int = 0) -> list[dict[str, float]]:
    rows = json.loads((out / f"metrics-{rank}.json").read_text())
    return [{key: value for key, value in row.items() if key not in OF_THE_MACHINE} for row in rows]


def assert_same_bits(first: Path, second: Path) -> None:
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    assert [name for name in one if not one[name].equal(two[name])] == []


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that nothing disturbed."""
    return train(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three processes that nothing disturbed."""
    return train(tmp_path_factory.mktemp("three"), size=3)


@pytest.mark.parametrize("epoch", [1, EPOCHS])
def test_a_killed_run_goes_on_to_the_same_bits(alone: Path, tmp_path: Path, epoch: int):
    resume = kill_after(tmp_path / "killed", epoch * STEPS)
    again = train(tmp_path / "again", resume=resume)
    assert_same_bits(alone, again)
    done = int(resume.name.removeprefix("step-")) // STEPS
    assert epoch <= done <= EPOCHS
    assert metrics(again) == metrics(alone)[done:]


@pytest.mark.parametrize(("bits", "stop", "step"), [(False, 6, 5), (False, 8, 6), (True, 8, 6)])
def test_a_run_stopped_in_an_epoch_or_an_evaluation_goes_on_to_the_same_bits_and_means(
    alone: Path, tmp_path: Path, bits: bool, stop: int, step: int
):
    if bits:
        alone = train(tmp_path / "alone", bits=True)
    stopped = train(tmp_path / "stopped", code=4, stop=stop, bits=bits)
    resume = newest(stopped)
    assert resume.name == f"step-{step:03d}"
    again = train(tmp_path / "again", resume=resume, bits=bits)
    assert_same_bits(alone, again)
    assert metrics(stopped) + metrics(again) == metrics(alone)


def test_two_processes_follow_the_trajectory_of_one(alone: Path, tmp_path: Path):
    together = train(tmp_path, size=2)
    assert metrics(together, 0) == metrics(together, 1)
    for one, two in zip(metrics(alone), metrics(together), strict=True):
        assert two == pytest.approx(one, rel=2e-4)
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(together)[name], tensor, rtol=1e-3, atol=1e-4)
        assert weights(together, 1)[name].equal(weights(together, 0)[name])


def test_ranks_look_up_at_the_same_steps_however_fast_they_are_and_learn_the_same(tmp_path: Path):
    always, seldom = (
        train(tmp_path / name, size=2, seldom=at) for name, at in (("a", None), ("s", [100, 2]))
    )
    assert_same_bits(always, seldom)
    assert metrics(always) == metrics(seldom)
    for rank in range(2):
        often, rarely = (json.loads((run / f"asked-{rank}.json").read_text()) for run in (always, seldom))
        # Of five steps at every second, and at an epoch's last; the first one ever does not ask.
        assert rarely == often - 2 - (EPOCHS - 1)


def test_bits_are_learned_alike_by_one_process_and_by_two(tmp_path: Path):
    """The baseline's running mean and deviation are of all images, and not of a rank's."""
    one, two = train(tmp_path / "one", bits=True), train(tmp_path / "two", size=2, bits=True)
    expected, found = weights(one), weights(two)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("bits", [False, True])
def test_a_gradient_in_parts_is_that_of_the_whole(alone: Path, tmp_path: Path, bits: bool):
    if bits:
        alone = train(tmp_path / "alone", bits=True)
    parts = train(tmp_path / "parts", size=2, bits=bits, settings={"accumulate": 3})
    for one, other in zip(metrics(alone), metrics(parts), strict=True):
        assert other == pytest.approx(one, rel=2e-4)
    found = weights(parts)
    for name, value in weights(alone).items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 5, 13, 24])  # within epochs, at the end of one, near that of the run
def test_three_killed_processes_go_on_to_the_same_bits(three: Path, tmp_path: Path, step: int):
    # With three the order of a sum matters, which with two it does not.
    resume = kill_after(tmp_path / "killed", step, size=3, save_every=1)
    again = train(tmp_path / "again", size=3, resume=resume)
    assert_same_bits(three, again)
    assert metrics(again) == metrics(three)[EPOCHS - len(metrics(again)) :]
