"""Case 23: checkpoints that were not in storage yet when their process died are found and put by the same command."""

from __future__ import annotations

import json
import math
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.artifacts import gallery, history
from pipelines.cluster import worker
from pipelines.cluster.checkpoints import Checkpoints, Uploads
from pipelines.cluster.storage import RunStorage
from pipelines.cluster.unsent import Unsent
from pipelines.storage import open_store
from seqgen.training import ProcessGroup
from seqgen.training.checkpoint import Position, save_checkpoint
from tests.fault_proxy import FaultProxy, Request, Slow
from tests.s3_server import S3Server
from tests.train_runs import assert_complete, running, train, weights
from tests.training.test_checkpoint import trainee

SETTINGS = {"a": 1}
said: list[str] = []


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoints:
    """Those of a run in a folder; what waits for it lies in `tmp`."""
    said.clear()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return Checkpoints(open_store(str(tmp_path / "storage")), "run", keep=1)


def leave(checkpoints: Checkpoints, step: int, score: float = math.inf, began: str = "") -> Path:
    """What a process that died before it had put a checkpoint leaves."""
    directory = Unsent(checkpoints.store.root, checkpoints.run, began).new(step, score)
    history.write_history(directory / history.FILE_NAME, [])
    gallery.Gallery().write(directory / gallery.FILE_NAME)
    save_checkpoint(directory, trainee(step, 1), Position(step, step), SETTINGS)
    return directory


def test_23_what_was_left_is_put_the_newest_and_the_best(checkpoints: Checkpoints, tmp_path: Path) -> None:
    leave(checkpoints, 9)
    leave(checkpoints, 3, 7.0)
    leave(checkpoints, 3)  # saved within the epoch at whose end it had a bound
    cut = leave(checkpoints, 11)
    (cut / "index.json").unlink()  # its process died while it wrote it
    others = {
        leave(Checkpoints(checkpoints.store, "another"), 12),
        leave(checkpoints, 12, began="before it was removed"),
    }
    Uploads(checkpoints, said.append).send_left()
    assert checkpoints.steps() == [9, 3]
    assert checkpoints.best(checkpoints.steps()) == 3
    assert checkpoints.newest_whole(said.append) == 9
    assert [line.rpartition("/")[2] for line in said] == ["step-00000003", "step-00000003.1", "step-00000009"]
    waiting = set((tmp_path / "tmp").glob("seqgen-unsent-*/*/*"))
    assert waiting == others, "nothing of the run waits any more"
    said.clear()
    Uploads(checkpoints, said.append).send_left()
    assert not said


def test_23_a_worker_looks_for_them_by_the_id_that_the_run_began_with(checkpoints: Checkpoints) -> None:
    """The tracking server may have given the run another one since."""
    leave(checkpoints, 9, began="local-1")
    storage = RunStorage(checkpoints.store.root, checkpoints.run)
    storage.keep({"run_id": "the server's", "began": "local-1"})
    uploads = Uploads(checkpoints, said.append)
    overseer = SimpleNamespace(
        send_left=uploads.send_left, say=said.append, begin=lambda *history, resumed: None
    )
    with worker._last_checkpoint(checkpoints, ProcessGroup(), overseer) as directory:  # type: ignore[arg-type]
        assert directory is not None
    assert checkpoints.steps() == [9]


def test_23_what_somebody_else_could_have_put_there_is_not_taken(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    """The temporary directory is everybody's."""
    directory = leave(checkpoints, 1)
    ours = directory.parents[1]
    ours.chmod(0o777)
    uploads = Uploads(checkpoints, said.append)
    uploads.send_left()
    assert not checkpoints.steps()
    assert "not a directory of ours alone" in said[0]
    uploads.add(2, math.inf, lambda directory: None)
    assert "not a directory of ours alone" in said[1]
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]


def uploading(request: Request) -> bool:
    return request.method == "PUT" and "/step-" in request.path


@pytest.mark.slow
def test_23_a_driver_killed_while_checkpoints_are_sent_loses_none(
    undisturbed: str, place: Path, s3_server: S3Server, s3_proxy: FaultProxy
) -> None:
    """Into a real S3 server that answers no put any more: the same command finds them, and goes on from there."""
    (place / "tmp").mkdir()
    variables = {"SEQGEN_STORAGE": f"s3://runs/{place.name}", "TMPDIR": str(place / "tmp")}
    variables["RAY_TMPDIR"] = tempfile.gettempdir()  # a socket's path is short
    with running(place, **variables) as run:
        run.wait_for("epoch  2/")
        run.wait_until(lambda: any(uploading(one) and one.outcome == 200 for one in list(s3_proxy.requests)))
        s3_proxy.inject(Slow(300), uploading, times=None)
        run.wait_for("epoch 12/")
        run.kill()
    whole = (place / "tmp").glob("seqgen-unsent-*/*/*/index.json")  # which is written last
    newest = max(json.loads(path.with_name("report.json").read_text())["step"] for path in whole)
    s3_proxy.heal()
    listed = s3_server.client().list_objects_v2(Bucket="runs", Prefix=f"{place.name}/")["Contents"]
    assert newest > max(
        int(match[1]) for each in listed if (match := re.search(r"step-0*(\d+)", each["Key"]))
    )
    done = train(place, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"saved now, as its process ended before it could: s3://runs/{place.name}/" in done.stdout
    assert f"going on after epoch {newest // 4}\n" in done.stdout
    assert not list((place / "tmp").glob("seqgen-unsent-*/*"))
    assert_complete(place)
    assert weights(place) == undisturbed
