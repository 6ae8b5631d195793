"""Tracking, case 38: a server that is away at the start, in the middle or at the end; drivers that are killed."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import replay
from pipelines.register import register_trained
from pipelines.tracking import runs
from pipelines.tracking.server import Away
from pipelines.tracking.spool import RunSpool, is_local, spool_directory, spools
from seqgen.core.errors import OperationalError
from seqgen.data.manifest import Manifest
from seqgen.settings import Recipe
from tests.fault_proxy import CutAnswer, FaultProxy, Reset
from tests.finished_run import finished_run, outside, tiny_recipe
from tests.mlflow_server import MlflowServer
from tests.sets import write_digits
from tests.tracking_runs import Driver, log_steps, run_of, steps, wait_until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_38_a_server_that_is_away_at_the_start_ends_the_verb_with_code_1(
    kind: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    """Within 30 seconds: at most two attempts of ten seconds, here counted."""
    write_digits(tmp_path / "artifacts/tiny/shards")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if kind == "closed":
            listener.close()
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.train", "--recipe", str(files[0])],
            cwd=tmp_path,
            env=outside(MLFLOW_TRACKING_URI=f"http://ann:canary@127.0.0.1:{port}"),
            capture_output=True,
            text=True,
        )
        attempts = 0
        if kind == "silent":
            listener.settimeout(0.1)
            with contextlib.suppress(TimeoutError):
                while True:
                    listener.accept()[0].close()
                    attempts += 1
    assert done.returncode == 1, done.stderr
    assert f"http://***@127.0.0.1:{port}" in done.stderr
    assert "canary" not in done.stdout + done.stderr
    assert attempts == (2 if kind == "silent" else 0)
    assert not list((tmp_path / ".seqgen").glob("spool/*"))


def test_38_a_server_that_need_not_be_there_gets_the_whole_run_later(
    proxy: FaultProxy,
    project: Path,
    recipe: Recipe,
    manifest: Manifest,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    proxy.down()
    with pytest.raises(Away):
        runs.check()
    monkeypatch.setenv("SEQGEN_TRACKING_REQUIRED", "false")
    runs.check()
    study = runs.open_run(recipe, manifest, name="study", kind="study")
    local = runs.open_run(recipe, manifest, parent=study, name="away")
    assert is_local(local)
    (project / "picture.png").write_bytes(b"png")
    assert not log_steps(local, 1, 5)
    # It is interrupted and gone on with, still without a server.
    runs.close_run(local, "KILLED")
    assert runs.open_run(recipe, manifest, run_id=local) == local
    assert not log_steps(local, 4, 8)
    assert not runs.close_run(local, "FINISHED")
    assert not runs.attach(local, project / "picture.png", "train")
    assert not runs.log_measured(local, {"test/bound": 1.5}, 8)
    assert not runs.close_run(study, "FINISHED")
    said = capfd.readouterr().err
    assert "seqgen replay" in said

    proxy.up()
    with pytest.raises(OperationalError, match=r"seqgen replay"):
        runs.id_on_server(runs.connect(), local)
    for _ in range(2):
        replay.replay()
        run_id = runs.id_on_server(runs.connect(), local)
        assert steps(run_id) == list(range(1, 9))
    run = run_of(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "away"
    assert run.data.params["train.learning_rate"] == "0.001"
    assert run.data.metrics["test/bound"] == 1.5
    assert run.data.tags["mlflow.parentRunId"] == runs.id_on_server(runs.connect(), study)
    client = runs.connect()
    assert [item.path for item in client.list_artifacts(run_id, "train")] == ["train/picture.png"]
    named = client.search_runs([runs.experiment_id(client)], f"tags.`seqgen.opened_as` = '{local}'")
    assert len(named) == 1
    assert not list(spool_directory().iterdir())
    # What is done later for the run that had a local id goes to the server.
    assert runs.log_measured(local, {"test/bound": 1.25}, 8)
    assert run_of(run_id).data.metrics["test/bound"] == 1.25


def test_38_a_run_begun_without_a_server_goes_on_with_it(
    proxy: FaultProxy, recipe: Recipe, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQGEN_TRACKING_REQUIRED", "false")
    proxy.down()
    local = runs.open_run(recipe, manifest)
    log_steps(local, 1, 5)
    runs.close_run(local, "KILLED")
    proxy.up()
    run_id = runs.open_run(recipe, manifest, run_id=local)
    assert not is_local(run_id)
    assert run_of(run_id).info.status == "RUNNING"
    assert log_steps(run_id, 4, 8)
    assert runs.close_run(run_id, "FINISHED")
    assert steps(run_id) == list(range(1, 9))
    assert not list(spool_directory().iterdir())


def test_38_what_a_killed_driver_had_not_sent_is_sent_once_by_another_process(
    proxy: FaultProxy, files: tuple[Path, Path], recipe: Recipe, manifest: Manifest
) -> None:
    """And its run is closed as KILLED when a verb starts, but not that of a driver that lives."""
    killed, alive = Driver(files, proxy.address), Driver(files, proxy.address)
    try:
        proxy.down()
        killed.go()
        assert killed.hear() == "logged"
        killed.kill()
        proxy.up()
        assert run_of(killed.run_id).info.status == "RUNNING"
        runs.check()
        assert run_of(killed.run_id).info.status == "KILLED"
        assert run_of(alive.run_id).info.status == "RUNNING"

        replay.replay()
        assert steps(killed.run_id) == list(range(1, 51))
        assert run_of(killed.run_id).info.status == "KILLED"
        assert [spool.run_id for spool in spools()] == [alive.run_id]

        assert runs.open_run(recipe, manifest, run_id=killed.run_id) == killed.run_id
        assert run_of(killed.run_id).info.status == "RUNNING"
        assert log_steps(killed.run_id, 41, 60)
        assert runs.close_run(killed.run_id, "FINISHED")
        assert steps(killed.run_id) == list(range(1, 61))

        proxy.down()
        alive.go()
        assert alive.hear() == "logged"
        alive.kill()
        proxy.up()
        # Gone on with at once, without a replay: its spool is taken over.
        assert runs.open_run(recipe, manifest, run_id=alive.run_id) == alive.run_id
        assert log_steps(alive.run_id, 60, 60)
        assert steps(alive.run_id) == [*range(1, 51), 60]
        assert runs.close_run(alive.run_id, "FINISHED")
    finally:
        killed.kill()
        alive.kill()
    assert not list(spool_directory().iterdir())


def test_38_a_driver_killed_while_it_opens_its_run_leaves_none_running(
    proxy: FaultProxy, files: tuple[Path, Path]
) -> None:
    """The server has made the run, and the driver dies before it hears of it."""
    proxy.inject(CutAnswer(after=0), where=lambda request: request.path.endswith("runs/create"))
    proxy.inject(Reset(), where=lambda request: "runs/" in request.path, times=None)
    with pytest.raises(AssertionError, match="does not serve us"):
        Driver(files, proxy.address)
    proxy.heal()
    (left,) = spools()
    client = runs.connect()
    of_it = f"tags.`seqgen.opened_as` = '{left.run_id}'"
    (run,) = client.search_runs([runs.experiment_id(client)], of_it)
    assert run.info.status == "RUNNING"
    runs.check()
    assert run_of(run.info.run_id).info.status == "KILLED"


def test_38_a_server_killed_in_the_middle_gets_each_step_once(
    server: MlflowServer, project: Path, recipe: Recipe, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logging goes on at once; what the server missed reaches it when it is back."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    run_id = runs.open_run(recipe, manifest)
    log = runs.MetricLog(server.uri, run_id)
    log.log({"a": 1.0}, 1)
    wait_until(lambda: steps(run_id) == [1])
    server.kill()
    for step in range(2, 1002):  # were this to wait for the server, it would wait for ever
        log.log({"a": 1.0}, step)
    assert len(RunSpool.of(run_id).metrics.read()) == 1000
    server.start()
    assert log.close(timeout=300)
    assert steps(run_id) == list(range(1, 1002))
    assert runs.close_run(run_id, "FINISHED")


def test_38_a_training_outlives_the_server(
    proxy: FaultProxy, files: tuple[Path, Path], project: Path
) -> None:
    """Down at its end: code 0, and a warning with the command that sends the rest."""
    write_digits(project / "artifacts/tiny/shards")
    environment = outside(
        MLFLOW_TRACKING_URI=proxy.address,
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
        RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="600",
    )
    command = [sys.executable, "-m", "pipelines.train", "--recipe", str(files[0]), "--set=train.epochs=3"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as training:
        assert training.stdout is not None
        for line in training.stdout:
            if line.startswith("starting"):  # the run is open
                proxy.down()
        assert training.stderr is not None
        warnings = training.stderr.read()
    assert training.returncode == 0, warnings
    assert "seqgen replay" in warnings

    proxy.up()
    replay.replay()
    run_id = json.loads((project / "artifacts/tiny/train/run.json").read_text())["run_id"]
    run = run_of(run_id)
    assert run.info.status == "FINISHED"
    assert len(steps(run_id, "train/free_energy")) == len(set(steps(run_id, "train/free_energy"))) == 3
    attached = [item.path for item in runs.connect().list_artifacts(run_id, "train")]
    assert attached == ["train/history.csv", "train/recipe.json"]
    assert not list(spool_directory().iterdir())


def test_38_registering_wants_the_server(proxy: FaultProxy, project: Path) -> None:
    trained = finished_run(tiny_recipe(project))
    proxy.down()
    with pytest.raises(OperationalError, match=proxy.address) as caught:
        register_trained(trained)
    assert caught.value.exit_code == 1
