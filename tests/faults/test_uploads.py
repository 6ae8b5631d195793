"""Uploads: checkpoints that cannot be saved now while the training goes on, and what catches up."""

from __future__ import annotations

import json
import math
import re
import tempfile
import threading
from pathlib import Path

import pytest

from pipelines.cluster.checkpoints import MOST_UNSAVED, Checkpoints, Uploads
from pipelines.storage import Store, open_store
from pipelines.storage.folder import Folder
from seqgen.core.errors import OperationalError
from seqgen.training.checkpoint import Position, save_checkpoint
from tests.fault_proxy import FaultProxy
from tests.training.test_checkpoint import trainee


@pytest.fixture
def said() -> list[str]:
    """What is said of the uploads."""
    return []


@pytest.mark.slow
def test_23_an_outage_stops_nothing_and_what_matters_catches_up(
    outage: tuple[FaultProxy, Store], said: list[str]
):
    proxy, store = outage
    checkpoints = Checkpoints(store, "run", keep=5)
    uploads = Uploads(checkpoints, said.append)
    add(uploads, 1, 9.0)
    uploads.finish(120)
    proxy.down()
    for step, score in enumerate((8.0, 7.0, 7.5, math.inf), start=2):
        add(uploads, step, score)  # returns at once
    assert uploads.failure is None
    with pytest.raises(OperationalError, match=r"not saved within 1 s: .*it lies in .*seqgen-checkpoint-"):
        uploads.finish(1)
    proxy.up()
    uploads.finish(180)
    steps = checkpoints.steps()
    assert {1, 3, 5} <= set(steps), "the one before, the best and the newest"
    assert checkpoints.best(steps) == 3
    assert checkpoints.newest_whole(said.append) == 5
    assert said[0].startswith("warning: no checkpoint can be saved; training goes on")
    assert said[1].startswith(f"checkpoints are saved again: {store.root}/run/step-0000000")


def add(uploads: Uploads, step: int, score: float) -> None:
    uploads.add(
        step,
        score,
        lambda directory: save_checkpoint(directory, trainee(step), Position(step, step), {}),
    )


class Slow(Folder):
    """Puts nothing until it is told to go on."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def put_file(self, local: Path, key: str) -> str:
        self.begun.set()
        self.go_on.wait(60)
        return super().put_file(local, key)


def test_23_one_of_the_same_step_that_comes_while_it_is_put_is_put_too(tmp_path: Path, said: list[str]):
    """As at an epoch's end: saved within it, without a bound, and again once it is measured."""
    slow = Slow(str(tmp_path / "storage"))
    checkpoints = Checkpoints(slow, "run")
    uploads = Uploads(checkpoints, said.append)
    add(uploads, 1, math.inf)
    assert slow.begun.wait(60)
    add(uploads, 1, 5.0)
    slow.go_on.set()
    uploads.finish(60)
    assert checkpoints.best(checkpoints.steps()) == 1
    assert checkpoints.score(1) == 5.0


def test_23_a_storage_that_is_only_slow_is_told_with_what_allows_more(tmp_path: Path, said: list[str]):
    slow = Slow(str(tmp_path / "storage"))
    uploads = Uploads(Checkpoints(slow, "run"), said.append)
    add(uploads, 1, 5.0)
    assert slow.begun.wait(60)
    with pytest.raises(
        OperationalError, match=r"within 0\.01 s: .* slow; SEQGEN_UPLOAD_SECONDS .*; it lies in "
    ):
        uploads.finish(0.01)
    slow.go_on.set()
    uploads.finish(60)


def test_20_a_last_checkpoint_that_this_machine_has_no_room_for_is_no_success(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    checkpoints = Checkpoints(open_store(str(tmp_path / "storage")), "run")
    uploads = Uploads(checkpoints, said.append)
    add(uploads, 1, 5.0)
    uploads.finish(60)
    uploads.add(2, 4.0, lambda directory: Path("/dev/full").write_text("more than there is room for"))
    reason = rf"{tmp_path}/seqgen-unsent-\d+/\w+/seqgen-checkpoint-2-\w+: No space left on device; make room there, "
    assert re.fullmatch(rf"warning: no checkpoint .*: {reason}or set TMPDIR to another place", said[0])
    with pytest.raises(OperationalError, match=rf"the last checkpoint could not be saved: {reason}"):
        uploads.finish(60)
    add(uploads, 3, 3.0)
    uploads.finish(60)
    assert checkpoints.steps() == [3, 1]
    assert not list(tmp_path.rglob("seqgen-checkpoint-*")), "what was written of it is removed"


def test_23_an_error_without_a_text_is_no_success(tmp_path: Path, said: list[str]):
    """As memory that runs out: what could not be put is kept, and put by the next attempt."""

    class Exhausted(Folder):
        attempts = 0

        def put_file(self, local: Path, key: str) -> str:
            self.attempts += 1
            if self.attempts == 1:
                raise MemoryError
            return super().put_file(local, key)

    checkpoints = Checkpoints(Exhausted(str(tmp_path / "storage")), "run")
    uploads = Uploads(checkpoints, said.append)
    add(uploads, 1, 5.0)
    uploads.finish(60)
    assert checkpoints.steps() == [1]
    assert said[0].endswith("it is tried again: MemoryError")
    assert said[1].startswith("checkpoints are saved again: ")


def test_22_no_more_wait_than_the_newest_the_best_and_what_is_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
):
    (tmp_path / "storage").write_text("a file where a folder should be")
    local = tmp_path / "local"
    local.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(local))
    uploads = Uploads(Checkpoints(open_store(str(tmp_path / "storage")), "run"), said.append)
    waiting = lambda: list(local.glob("seqgen-unsent-*/*/*"))  # noqa: E731
    for step in range(1, 2 * MOST_UNSAVED):
        add(uploads, step, 1.0 if step == 2 else 9.0)
        assert len(waiting()) <= 3
    with pytest.raises(OperationalError) as caught:
        uploads.finish(3)
    left = sorted(json.loads((path / "report.json").read_text())["step"] for path in waiting())
    assert left == [2, 2 * MOST_UNSAVED - 1]
    assert all(str(path) in str(caught.value) for path in waiting()), "where they lie is told"


def test_23_too_many_unsaved_ones_are_a_failure(tmp_path: Path, said: list[str]):
    (tmp_path / "storage").write_text("a file where a folder should be")
    uploads = Uploads(Checkpoints(open_store(str(tmp_path / "storage")), "run"), said.append)
    for step in range(1, MOST_UNSAVED + 1):
        assert uploads.failure is None
        add(uploads, step, math.inf)
    with pytest.raises(OperationalError):
        uploads.finish(1)
    assert f"the last {MOST_UNSAVED} checkpoints could not be saved" in (uploads.failure or "")
