"""Training processes: killed, stopped, hanging, raising, out of memory; gradients that are not finite."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.train_runs import (
    EPOCHS,
    WORKERS,
    Run,
    assert_complete,
    environment,
    in_phase,
    running,
    saved,
    tracked,
    train,
    weights,
    with_canvas,
)
from tests.training import test_processes as processes

# A plugin whose canvas fails on one rank after so many calls.
PLUGIN = """
import torch
from seqgen.models.contracts import Canvas, register
from seqgen.settings import KindSettings

@register("canvas", "failing")
class Failing(Canvas):
    class Settings(KindSettings):
        pass

    def __init__(self, settings, sizes):
        super().__init__(settings, sizes)
        self.calls = 0

    def forward(self, canvas, written):
        self.calls += 1
        if torch.distributed.is_initialized() and torch.distributed.get_rank() == 1 and self.calls > 20:
            raise {error}
        return canvas + written
"""


def some_epoch(seed: int) -> str:
    """The start of the line of an epoch, any but the last."""
    return f"epoch {random.Random(seed).randrange(1, EPOCHS):2d}/"


def kill_workers(run: Run, count: int | None = None) -> None:
    for worker in run.workers()[:count]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            worker.send_signal(signal.SIGKILL)


@pytest.mark.slow
def test_01_a_worker_killed_at_any_step_costs_a_restart_and_changes_nothing(undisturbed: str, place: Path):
    """Before the first step, somewhere in an epoch, in one of the last two; with a checkpoint after every step."""
    every_step = ("--set", "train.checkpoint_minutes=1e-6", "--set", "train.checkpoint_every=1000")
    in_phase(place, "warm-up")
    with running(place, *every_step) as run:
        run.wait_until((place / "warm-up-1").exists)
        in_phase(place, "train", random.Random(4).randrange(20, 400))  # of the workers that come now
        os.kill(int((place / "warm-up-1").read_text()), signal.SIGKILL)
        run.wait_until((place / "train-1").exists)
        os.kill(int((place / "train-1").read_text()), signal.SIGKILL)
        run.wait_for(f"epoch {EPOCHS - 2}/")
        kill_workers(run, 1)
        assert run.end() == 0, run.text
    assert run.text.count("going on after epoch") == 2
    assert_complete(place)
    assert weights(place) == undisturbed


@pytest.mark.slow
def test_02_all_workers_are_killed(undisturbed: str, place: Path):
    with running(place) as run:
        run.wait_for(some_epoch(3))
        kill_workers(run)
        assert run.end() == 0, run.text
    assert_complete(place)
    assert weights(place) == undisturbed


@pytest.mark.slow
def test_02_used_up_restarts_name_the_last_checkpoint(place: Path):
    with running(place, "--set", "train.max_failures=0") as run:
        run.wait_for("epoch  3/")
        kill_workers(run)
        assert run.end() == 1, run.text
    assert f"the last checkpoint is {place}/.seqgen/ray/tiny-" in run.text
    assert "Go on with: python -m pipelines.train" in run.text
    assert [found["status"] for found in tracked(place)] == ["FAILED"]


@pytest.mark.slow
def test_03_and_04_a_killed_driver_and_one_stopped_at_its_start_are_gone_on_with(
    undisturbed: str, place: Path
):
    with running(place) as run:
        run.wait_for("epoch  3/")
        run.kill()
    assert [found["status"] for found in tracked(place)] == ["RUNNING"]

    with running(place) as run:  # while its workers start
        run.wait_for("starting")
        run.process.terminate()
        assert run.end() == 4, run.text
    assert "Go on with: python -m pipelines.train --recipe tiny.yaml" in run.lines[-1]
    assert [found["status"] for found in tracked(place)] == ["KILLED"]
    assert not (place / "artifacts/tiny/train").exists()

    done = train(place, "--profile")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on after epoch" in done.stdout
    assert "aten::" in done.stdout
    assert list(place.glob(".seqgen/ray/tiny-*/profile.json.gz"))
    assert_complete(place)
    assert weights(place) == undisturbed


@pytest.mark.slow
def test_05_a_second_signal_ends_it_at_once_and_spoils_nothing(undisturbed: str, place: Path):
    with running(place) as run:
        run.wait_for("epoch  2/")
        workers = run.workers()
        for worker in workers:  # or the first signal would be obeyed before the second comes
            worker.send_signal(signal.SIGSTOP)
        run.process.terminate()
        time.sleep(8)  # sooner it would be the same stop
        run.process.terminate()
        assert run.end() == -signal.SIGTERM, run.text
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
    done = train(place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_complete(place)
    assert weights(place) == undisturbed


# The whole line of `pipelines.retrain` is the training; a recipe without a champion is retrained for.
DVC = """
stages:
  report:
    matrix: {recipe: "${recipes}"}
    cmd: python -m pipelines.train --recipe ${item.recipe}
    deps: ["${item.recipe}"]
    outs: [{artifacts/tiny/train/run.json: {cache: false, persist: true}}]
"""


@pytest.mark.slow
def test_06_a_stopped_dvc_or_retraining_saves_and_leaves_no_training_behind(undisturbed: str, place: Path):
    """Each is stopped as systemd does with KillMode=mixed, by a SIGTERM to it alone; the next one goes on."""
    (place / "dvc.yaml").write_text(DVC)
    (place / "params.yaml").write_text("recipes: [tiny.yaml]\n")
    # Nothing else saves: what is gone on with was saved because of a stop.
    seldom = "train: {checkpoint_every: 1000, checkpoint_minutes: 1000, "
    (place / "tiny.yaml").write_text((place / "tiny.yaml").read_text().replace("train: {", seldom))
    dvc, retrain = (sys.executable, "-m", "dvc"), (sys.executable, "-m", "pipelines.retrain")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # Debian's sh stays between DVC and the training, where others put it in their place.
    variables = environment(place) | {"PATH": path, "SHELL": "/bin/sh"}
    subprocess.run([*dvc, "init", "--no-scm", "-q"], cwd=place, env=variables, check=True)
    before = 0
    for command, epoch in (((*dvc, "repro"), "epoch  3/"), (retrain, "epoch ")):
        process = subprocess.Popen(
            command, cwd=place, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith(epoch))
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        said = process.stdout.read()  # to the end of the training's own output
        assert "stopped in epoch" in said, said
        assert process.wait() == (4 if command == retrain else -signal.SIGTERM)
        psutil.wait_procs(family, timeout=60)
        assert not [process for process in family if alive(process)]
        assert not (place / "dvc.lock").exists()
        assert [found["status"] for found in tracked(place)] == ["KILLED"]
        assert saved(str(place / ".seqgen/ray")) > before
        before = saved(str(place / ".seqgen/ray"))

    done = subprocess.run(retrain, cwd=place, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on after epoch" in done.stdout
    assert_complete(place)
    assert weights(place) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stopped", "sleeping"])
def test_08_the_rank_that_hangs_is_named_and_no_other(place: Path, how: str):
    in_phase(place, "train", calls=40, rank=1, seconds=1 if how == "stopped" else 600)
    with running(place, SEQGEN_HANG_SECONDS="30") as run:
        run.wait_until((place / "train-1").exists)
        workers = run.workers()
        if how == "stopped":
            os.kill(int((place / "train-1").read_text()), signal.SIGSTOP)
        assert run.end() == 1, run.text
    place_of_it = r"\w+" if how == "stopped" else "reach"
    assert re.search(rf"training stands still: rank 1 on node .* at {place_of_it}:\d+ in ", run.text), (
        run.text
    )
    assert "rank 0" not in run.text
    assert [found["status"] for found in tracked(place)] == ["FAILED"]
    psutil.wait_procs(workers, timeout=60)
    assert not [worker for worker in workers if alive(worker)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "told"),
    [
        ('ValueError("the sprite is too large")', "ValueError: the sprite is too large (failing_canvas.py:18)"),  # 09
        (
            'torch.OutOfMemoryError("CUDA out of memory")',
            f"train.batch=16, train.workers={WORKERS}, model.steps=2; "
            "choose a smaller batch, more workers, or train.recompute",
        ),
    ],
)  # fmt: skip
def test_09_and_14_the_first_cause_is_told_not_its_echo_and_nothing_is_restarted(
    place: Path, error: str, told: str
):
    (place / "failing_canvas.py").write_text(PLUGIN.replace("{error}", error))
    (place / "tiny.yaml").write_text(with_canvas("failing"))
    done = train(place)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"^error: rank 1 on node .+ \(\w+\): ", done.stderr, re.MULTILINE), done.stderr
    assert told in done.stderr
    assert "gloo" not in done.stderr.lower()
    assert f"epoch  2/{EPOCHS}" in done.stdout
    assert "going on after epoch" not in done.stdout, "an error that a restart repeats is not restarted"


@pytest.mark.slow
def test_09_a_killed_worker_is_told_not_that_another_one_noticed(place: Path):
    in_phase(place, "train", calls=40, rank=1, seconds=0)
    with running(place, "--set", "train.max_failures=0") as run:
        run.wait_until((place / "train-1").exists)
        os.kill(int((place / "train-1").read_text()), signal.SIGKILL)
        assert run.end() == 1, run.text
    told = run.lines[-1]
    assert "training failed and its restarts are used up" in told
    assert "rank 1" in told
    assert "gloo" not in told.lower()
    assert "connection closed by peer" not in told.lower()


@pytest.mark.slow
def test_10_nan_on_one_rank_skips_the_step_on_all(tmp_path: Path):
    spoiled = processes.train(tmp_path / "spoiled", size=2, spoil={1: [7]})
    one, two = (processes.weights(spoiled, rank) for rank in (0, 1))
    assert all(one[name].equal(value) for name, value in two.items())
    assert all(bool(value.isfinite().all()) for value in one.values())
    rows = json.loads((spoiled / "metrics-0.json").read_text())
    assert [row["skipped_steps"] for row in rows] == [0, 1, 0, 0, 0]
    assert all(torch.tensor(list(row.values())).isfinite().all() for row in rows)
    for rank in (0, 1):
        ((epoch, step, seed, samples),) = json.loads((spoiled / f"skipped-{rank}.json").read_text())
        assert (epoch, step, seed) == (2, 7, 7)
        assert len(set(samples)) == 12  # of the whole global batch


@pytest.mark.slow
def test_10_too_many_of_them_end_with_code_3_and_the_samples(tmp_path: Path):
    spoil = {0: [5, 6, 7], 1: [8]}
    spoiled = processes.train(tmp_path / "spoiled", 2, code=3, spoil=spoil, settings={"max_skipped": 3})
    lost = json.loads((spoiled / "skipped-1.json").read_text())
    assert [step for _, step, _, _ in lost] == [5, 6, 7, 8]
    assert processes.newest(spoiled).name == f"step-{processes.STEPS:03d}"


@pytest.mark.slow
def test_10_numbers_that_leave_the_finite_end_with_code_3(place: Path):
    spoiling = ["learning_rate=1.0", "final_rate=1.0", "clip=1e30", "epochs=200"]
    done = train(place, "--set=model.steps=10", *(f"--set=train.{text}" for text in spoiling))
    assert done.returncode == 3, done.stdout + done.stderr
    assert "the gradient is not finite" in done.stderr
    assert "seed 0" in done.stderr
    (note,) = (place / ".seqgen/ray").glob("*/skipped-steps.json")
    assert len(json.loads(note.read_text())[-1]["samples"]) == 16
    assert [found["status"] for found in tracked(place)] == ["FAILED"]
    assert not (place / "artifacts/tiny/train").exists()


@pytest.mark.slow
def test_17_what_ray_keeps_for_itself_may_be_damaged_while_a_run_goes_on(undisturbed: str, place: Path):
    (place / "tmp").mkdir()
    # Ray's sockets lie elsewhere: their paths may not be long.
    with running(place, TMPDIR=str(place / "tmp"), RAY_TMPDIR=tempfile.gettempdir()) as run:
        run.wait_for("epoch  3/")
        (kept,) = (place / "tmp").glob("seqgen-ray-train-*/tiny-*")
        snapshot = kept / "checkpoint_manager_snapshot.json"  # what a restarted controller reads
        for path in {snapshot, *(path for path in kept.rglob("*") if path.is_file())}:
            path.write_bytes(b"\x00 no JSON {")
        kill_workers(run, 1)
        assert run.end() == 0, run.text
    assert_complete(place)
    assert weights(place) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 3)])
def test_11_a_run_goes_on_with_fewer_and_with_more(tmp_path: Path, before: int, after: int):
    alone = processes.train(tmp_path / "alone")
    resume = processes.kill_after(tmp_path / "killed", 7, size=before, save_every=1)
    again = processes.train(tmp_path / "again", size=after, resume=resume)
    expected, found = processes.weights(alone), processes.weights(again)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)
    rows = processes.metrics(again)
    for one, two in zip(processes.metrics(alone)[-len(rows) :], rows, strict=True):
        assert two == pytest.approx(one, rel=2e-4)


@pytest.mark.slow
def test_12_and_13_a_name_stands_for_one_run(place: Path):
    def asked(*arguments: str) -> tuple[int, str]:
        done = train(place, "--name", "mine", "--workers", "1", *arguments)
        return done.returncode, done.stdout + done.stderr

    assert asked("--set", "train.epochs=2")[0] == 0
    code, text = asked("--set", "train.epochs=2", "--set", "model.latents=5", "--set", "train.seed=1")
    assert code == 2
    assert "model.latents was 4, is 5; train.seed was 0, is 1" in text
    assert "--force-new" in text

    # More epochs go on; so does another cadence.
    code, text = asked("--set", "train.epochs=3", "--set", "train.checkpoint_every=2")
    assert (code, "going on after epoch 2" in text) == (0, True)
    assert json.loads((place / "artifacts/tiny/train/run.json").read_text())["epochs"] == 3
    code, text = asked("--set", "train.epochs=2", "--force-new")
    assert (code, "going on" in text) == (0, False)
    assert {path.name for path in (place / ".seqgen/ray").iterdir()} == {"mine", "mine-2"}


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
