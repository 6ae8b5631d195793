"""The tracking server: reached or refused, runs opened once, metrics sent from the background, each once."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

import pytest

from pipelines import replay
from pipelines.cluster.storage import RunStorage
from pipelines.recipes import load_recipe
from pipelines.tracking import lineage, metrics, runs
from pipelines.tracking.spool import Point, RunSpool, is_local, spool_directory
from pipelines.tracking.system_metrics import system_metrics
from pipelines.tracking.tracked_run import tracked_run
from seqgen.core.errors import BadInput, OperationalError, one_line
from seqgen.core.locks import Taken, held
from seqgen.data.manifest import Manifest, read_manifest
from seqgen.settings import Recipe
from tests.finished_run import tiny_recipe, work_in
from tests.sets import write_digits


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with an empty SQLite store."""
    work_in(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return load_recipe(str(tiny_recipe(tmp_path_factory.mktemp("recipe"))))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    directory = tmp_path_factory.mktemp("shards")
    write_digits(directory)
    return read_manifest(directory)


def keep_status(spooled: RunSpool, status: str) -> None:
    with spooled.hold():
        spooled.keep_status(status)


def steps(run_id: str, key: str) -> list[int]:
    return sorted(metric.step for metric in runs.connect().get_metric_history(run_id, key))


def test_default_is_a_sqlite_file_of_the_working_directory(here: Path) -> None:
    assert runs.tracking_uri() == f"sqlite:///{here}/mlflow.db"


def test_relative_sqlite_becomes_absolute(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///db/runs.db")
    assert runs.tracking_uri() == f"sqlite:///{here}/db/runs.db"


@pytest.mark.parametrize(
    "uri", ["./mlruns", "file:///tmp/mlruns", "postgresql://u:canary@host/db", "databricks"]
)
def test_wrong_store_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(BadInput, match="MLFLOW_TRACKING_URI") as caught:
        runs.connect()
    assert "canary" not in str(caught.value)


def test_server_that_is_down_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:canary@127.0.0.1:9")
    with pytest.raises(OperationalError, match=r"http://\*\*\*@127\.0\.0\.1:9") as caught:
        runs.connect()
    assert "canary" not in str(caught.value)
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "3"  # what a check sets for itself is gone


def test_passwords_are_taken_out_of_any_text() -> None:
    said = one_line(ValueError("http://a:canary@h/x\nand postgresql://b:can:ary@h, https://:canary@h"))
    assert said == "http://***@h/x and postgresql://***@h, https://***@h"
    assert runs.redact("sqlite:////a/b@c") == "sqlite:////a/b@c"
    assert runs.redact("http://token@host:1 http://user:p@ss@host") == "http://***@host:1 http://***@host"


def test_a_run_that_cannot_be_described_is_failed(
    here: Path, recipe: Recipe, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    def refuse(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MlflowClient, "log_batch", refuse)
    with pytest.raises(KeyboardInterrupt):
        runs.open_run(recipe, manifest)
    client = runs.connect()
    (run,) = client.search_runs([runs.experiment_id(client)])
    assert run.info.status == "FAILED"


def test_replay_does_not_end_a_run_that_was_gone_on_with(
    here: Path, recipe: Recipe, manifest: Manifest
) -> None:
    client = runs.connect()
    run_id = runs.open_run(recipe, manifest)
    spooled = RunSpool.of(run_id)
    spooled.end()  # as if another process had done the work
    for status in ("KILLED", "FAILED"):
        spooled.keep_status(status)
    replay.replay()
    assert client.get_run(run_id).info.status == "FAILED"
    assert not spooled.path.exists()

    keep_status(spooled, "KILLED")
    runs.open_run(recipe, manifest, run_id=run_id)
    assert spooled.status()[0] == "RUNNING"
    assert runs.close_run(run_id, "FINISHED")
    assert not spooled.path.exists()
    keep_status(spooled, "KILLED")  # as another machine's spool may have it
    replay.replay()
    assert client.get_run(run_id).info.status == "FINISHED"
    assert not spooled.path.exists()


def test_run_has_settings_and_lineage_and_reopens(here: Path, recipe: Recipe, manifest: Manifest) -> None:
    run_id = runs.open_run(recipe, manifest, name="first", kind="trial", parent=None)
    run = runs.connect().get_run(run_id)
    assert run.info.run_name == "first"
    assert run.data.params["train.learning_rate"] == "0.001"
    assert run.data.params["register.name"] == "tiny"
    assert run.data.tags["seqgen.manifest_digest"] == manifest.digest
    assert run.data.tags["seqgen.settings_digest"] == recipe.digest()
    assert run.data.tags["seqgen.source.none"] == "0" * 64
    assert run.data.tags["seqgen.kind"] == "trial"
    assert run.info.artifact_uri.startswith(f"file://{here}/mlartifacts/")
    (entered,) = run.inputs.dataset_inputs
    assert (entered.dataset.name, entered.dataset.source_type) == (manifest.title, "mnist-5k")
    assert entered.dataset.digest == manifest.digest[:32]
    assert [(tag.key, tag.value) for tag in entered.tags] == [("mlflow.data.context", "training")]

    assert runs.close_run(run_id, "KILLED")
    assert runs.connect().get_run(run_id).info.status == "KILLED"
    assert runs.open_run(recipe, manifest, run_id=run_id) == run_id
    assert runs.connect().get_run(run_id).info.status == "RUNNING"
    child = runs.open_run(recipe, manifest, parent=run_id)
    assert runs.connect().get_run(child).data.tags["mlflow.parentRunId"] == run_id


@pytest.mark.parametrize("wanted", ["true", "false"])
def test_system_metrics_are_of_the_run_if_mlflows_variable_says_so(
    here: Path, recipe: Recipe, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", wanted)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    run_id = runs.open_run(recipe, manifest)

    def logged() -> set[str]:
        return {key for key in runs.connect().get_run(run_id).data.metrics if key.startswith("system/")}

    with system_metrics(run_id):
        deadline = time.monotonic() + 60
        while wanted == "true" and not logged() and time.monotonic() < deadline:
            time.sleep(0.1)
    assert ("system/cpu_utilization_percentage" in logged()) is (wanted == "true")
    names = {thread.name for thread in threading.enumerate()}
    assert not names & {"SystemMetricsMonitor", "system-metrics-end"}


def test_attach_file_and_directory(here: Path, recipe: Recipe, manifest: Manifest) -> None:
    run_id = runs.open_run(recipe, manifest)
    (here / "pictures").mkdir()
    (here / "pictures" / "a.png").write_bytes(b"a")
    assert runs.attach(run_id, here / "pictures", "evaluate")
    assert runs.attach(run_id, here / "pictures" / "a.png", "")
    client = runs.connect()
    assert [item.path for item in client.list_artifacts(run_id, "evaluate")] == ["evaluate/a.png"]
    assert "a.png" in [item.path for item in client.list_artifacts(run_id)]


def test_metrics_after_a_resume_are_not_doubled(here: Path, recipe: Recipe, manifest: Manifest) -> None:
    run_id = runs.open_run(recipe, manifest)
    for begin, end in ((1, 6), (4, 9)):
        log = runs.MetricLog(runs.tracking_uri(), run_id)
        for step in range(begin, end):
            log.log({"train/free_energy": 100.0 / step, "valid/dynamic/free_energy": float("nan")}, step)
        assert log.close()
    assert steps(run_id, "train/free_energy") == list(range(1, 9))
    assert steps(run_id, "valid/dynamic/free_energy") == list(range(1, 9))


def test_a_run_that_the_server_does_not_know_is_opened_anew(
    here: Path, recipe: Recipe, manifest: Manifest, capfd: pytest.CaptureFixture
) -> None:
    run_id = runs.open_run(recipe, manifest, run_id="0" * 32)
    assert run_id != "0" * 32
    assert "a new one is opened" in capfd.readouterr().err
    assert runs.connect().get_run(run_id).info.status == "RUNNING"
    assert runs.open_run(recipe, manifest, run_id=run_id) == run_id


def test_a_run_s_first_id_is_kept_whatever_the_server_calls_it_later(
    here: Path, recipe: Recipe, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its killed process left unsent lies under that one."""
    storage = RunStorage(str(here / "storage"), "run")
    monkeypatch.setenv("SEQGEN_TRACKING_REQUIRED", "false")
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        with tracked_run(recipe, manifest, storage) as first:
            assert storage.state() == {"run_id": first, "began": first}
    assert is_local(first)
    with tracked_run(recipe, manifest, storage) as known:
        assert storage.state() == {"run_id": known, "began": first}
    assert not is_local(known)
    storage.keep({"run_id": "0" * 32})  # as it was kept once; and the server does not know it any more
    with tracked_run(recipe, manifest, storage) as anew:
        assert storage.state() == {"run_id": anew, "began": "0" * 32}


def test_what_is_kept_of_a_local_run_after_its_replay_is_sent(
    here: Path, recipe: Recipe, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was trained without a server, sent, and measured when the server was away once more."""
    monkeypatch.setenv("SEQGEN_TRACKING_REQUIRED", "false")
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        local = runs.open_run(recipe, manifest)
        assert not runs.close_run(local, "FINISHED")
    replay.replay()
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        assert not runs.log_measured(local, {"test/bound": 1.5}, 8)
        (here / "picture.png").write_bytes(b"png")
        assert not runs.attach(local, here / "picture.png", "evaluate")
    replay.replay()
    client = runs.connect()
    run_id = runs.id_on_server(client, local)
    assert client.get_run(run_id).data.metrics["test/bound"] == 1.5
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [item.path for item in client.list_artifacts(run_id, "evaluate")] == ["evaluate/picture.png"]
    assert not RunSpool.of(local).path.exists()
    assert not RunSpool.of(run_id).path.exists()


def test_a_run_gone_on_with_is_not_closed_by_who_closes_those_of_killed_processes(
    here: Path, recipe: Recipe, manifest: Manifest
) -> None:
    """He holds its spool, and has read that it is to be closed, when it is gone on with."""
    client = runs.connect()
    run_id = runs.open_run(recipe, manifest)
    spooled = RunSpool.of(run_id)
    spooled.end()  # as if its process had been killed
    asked, closed = threading.Event(), threading.Event()

    def close() -> None:
        with held(spooled.path / "lock"):
            asked.set()
            closed.wait()
            client.set_terminated(run_id, "KILLED")
            spooled.forget_status()

    closer = threading.Thread(target=close, daemon=True)
    closer.start()
    asked.wait()
    opener = threading.Thread(target=runs.open_run, args=(recipe, manifest), kwargs={"run_id": run_id})
    opener.start()
    opener.join(2)
    closed.set()
    closer.join()
    opener.join()
    assert client.get_run(run_id).info.status == "RUNNING"
    assert spooled.status()[0] == "RUNNING"


def test_a_run_that_is_being_opened_is_nobody_else_s(here: Path) -> None:
    """Whoever looks for spools that nobody holds finds none of those that are being made."""
    found, done = [], threading.Event()

    def look() -> None:
        while not done.is_set():
            for path in spool_directory().glob("local-*/run.json"):
                with contextlib.suppress(Taken), held(path.with_name("lock")):
                    found.append(path)

    looking = threading.Thread(target=look)
    looking.start()
    opened = [RunSpool.new({"name": "new"}) for _ in range(100)]
    done.set()
    looking.join()
    for spool in opened:
        spool.end()
    assert not found


def test_bad_values_are_a_warning(
    here: Path, recipe: Recipe, manifest: Manifest, capfd: pytest.CaptureFixture
) -> None:
    run_id = runs.open_run(recipe, manifest)
    log = runs.MetricLog(runs.tracking_uri(), run_id)
    log.log({"a": "no number"}, 1)  # type: ignore[dict-item]
    log.log({"a": 1.0}, 2)
    assert log.close()
    assert steps(run_id, "a") == [2]
    assert "step 1 not logged" in capfd.readouterr().err


def test_unknown_run_is_refused_once_and_kept(here: Path, recipe: Recipe, manifest: Manifest) -> None:
    runs.close_run(runs.open_run(recipe, manifest), "FINISHED")
    log = runs.MetricLog(runs.tracking_uri(), "0123")
    log.log({"a": 1.0}, 1)
    assert not log.close()
    assert [point.key for point in RunSpool.of("0123").metrics.read()] == ["a"]


def test_a_spool_for_another_server_is_kept_and_said_to_be(
    here: Path, recipe: Recipe, manifest: Manifest, capfd: pytest.CaptureFixture
) -> None:
    """Also at the start of a verb, which it does not stop; the other runs are sent."""
    run_id = runs.open_run(recipe, manifest)
    spooled = RunSpool.of(run_id)
    spooled.metrics.append([Point("a", 1.0, 1, 1)])
    spooled.end()
    keep_status(RunSpool.of("f" * 32), "FINISHED")
    with pytest.raises(OperationalError, match="1 of 2 runs not sent"):
        replay.replay()
    assert steps(run_id, "a") == [1]
    runs.check()
    said = capfd.readouterr().err
    assert said.count("set MLFLOW_TRACKING_URI to its own server") == 2
    assert RunSpool.of("f" * 32).status()[0] == "FINISHED"


def test_full_queue_drops_with_one_warning(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(metrics, "_CAPACITY", 600)
    log = runs.MetricLog("http://127.0.0.1:9", "0123")
    for step in range(2000):
        log.log({"a": 1.0}, step)
    log.close(timeout=0)
    assert capfd.readouterr().err.count("dropped") == 1


def test_git_commit_says_what_is_checked_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("SEQGEN_COMMIT", raising=False)
    assert lineage.git_commit(tmp_path) == "none"
    monkeypatch.setenv("SEQGEN_COMMIT", "abc")
    assert lineage.git_commit(tmp_path) == "abc"
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    lineage._git(tmp_path, "init", "-q")
    lineage._git(tmp_path, *who, "commit", "-q", "--allow-empty", "-m", "one")
    head = lineage._git(tmp_path, "rev-parse", "HEAD")
    assert lineage.git_commit(tmp_path) == head
    (tmp_path / "dvc.lock").write_text("")
    assert lineage.git_commit(tmp_path) == head
    (tmp_path / "new.py").write_text("")
    assert lineage.git_commit(tmp_path) == head + "+dirty"


def test_a_journal_that_a_kill_cut_loses_a_line_and_no_other(tmp_path: Path) -> None:
    points = [Point("a", float(step), 1, step) for step in range(3)]
    journal = RunSpool(tmp_path).metrics
    journal.append(points[:2])
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-5])
    RunSpool(tmp_path).metrics.append(points[2:])
    assert journal.read() == [points[0], points[2]]
    journal.replace(points[1:])
    assert journal.read() == points[1:]
    journal.replace([])
    assert not journal.path.exists()


def test_a_spool_takes_no_more_files_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.tracking.spool.FILES_LIMIT", 10)
    (tmp_path / "a").write_bytes(b"12345678")
    spooled = RunSpool(tmp_path / "spool")
    spooled.keep_files(tmp_path / "a", "folder")
    with pytest.raises(OSError, match="room for 2 more"):
        spooled.keep_files(tmp_path / "a", "")
    assert (spooled.files / "folder" / "a").read_bytes() == b"12345678"


def test_whether_tracking_is_required_is_true_or_false(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQGEN_TRACKING_REQUIRED", "perhaps")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(BadInput, match="SEQGEN_TRACKING_REQUIRED=perhaps"):
        runs.check()
