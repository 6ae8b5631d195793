"""The services of `make services-up`: a real PostgreSQL, S3 and MLflow server, used, stopped and started again."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from pipelines.cli import background
from pipelines.register import register_trained
from pipelines.services import postgres, s3, stack
from pipelines.services.place import Place
from pipelines.tracking import runs
from seqgen.core.errors import BadInput
from seqgen.core.machine import free_port
from seqgen.serving.loading import load
from tests.finished_run import finished_run, outside, tiny_recipe

ROOT = Path(__file__).parents[2]
SECRET_FILES = ("auth.ini", "environment", "keys.json", "s3.json")


def missing() -> list[str]:
    """What the services need and is not installed here."""
    found = [name for name in ("flask_wtf", "psycopg") if importlib.util.find_spec(name) is None]
    for find in (postgres._programs, s3._program):
        try:
            find()
        except BadInput as error:
            found.append(str(error))
    return found


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that PostgreSQL's user may enter where root runs this; pytest's own may be closed to others."""
    with tempfile.TemporaryDirectory(prefix="seqgen-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def services(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.services", *arguments],
        cwd=place,
        env=outside(PYTHONPATH=os.pathsep.join(path for path in sys.path if path)),
        capture_output=True,
        text=True,
    )


def exported(file: Path) -> dict[str, str]:
    """What a shell has that read the file."""
    done = subprocess.run(
        ["bash", "-c", f". '{file}' && env"], env={}, capture_output=True, text=True, check=True
    )
    lines = (line.split("=", 1) for line in done.stdout.splitlines())
    return {key: value for key, value in lines if key.startswith(("MLFLOW_", "AWS_"))}


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.skipif(bool(missing()), reason=f"not installed: {missing()}")
def test_runs_metrics_artifacts_and_registry_survive_down_and_up(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = str(free_port())
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3000)"])
    try:
        begun = services(place, "up", "--port", port)
        assert begun.returncode == 0, begun.stderr
        root = place / ".seqgen/services"
        keys = (root / "keys.json").read_text()
        for name in SECRET_FILES:
            assert stat.S_IMODE((root / name).stat().st_mode) == 0o600
        said = begun.stdout + begun.stderr + "".join(path.read_text() for path in root.glob("*.log"))
        seen = said + subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True).stdout
        secrets = [value for value in keys.split('"') if len(value) == 40]
        assert len(secrets) == 5
        assert not [secret for secret in secrets if secret in seen]

        # With what it says to read, and only with it, the verbs' tracking is on these servers.
        variables = exported(root / "environment")
        monkeypatch.chdir(place)
        for name in ("SEQGEN_ARTIFACTS", "SEQGEN_STORAGE", "SEQGEN_STATE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", variables["MLFLOW_TRACKING_URI"])
        monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
        with pytest.raises(BadInput, match="HTTP 401"):
            runs.connect()
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        trained = finished_run(tiny_recipe(place))
        run_id = trained.run["run_id"]
        log = runs.MetricLog(runs.tracking_uri(), run_id)
        for step in range(1, 21):
            log.log({"a": float(step)}, step)
        assert log.close(timeout=120)
        assert runs.attach(run_id, trained.places.evaluate, "evaluate")
        assert register_trained(trained)["promoted"]
        objects = boto3.Session().client("s3").list_objects_v2(Bucket=s3.BUCKET, Prefix="mlflow/")["Contents"]
        assert [item["Key"] for item in objects if item["Key"].endswith("evaluate/evaluation.json")]

        # Going down stops these processes and no other, and loses nothing.
        assert services(place, "status").returncode == 0
        running = Place().read_state()
        assert list(running) == list(stack.SERVICES)
        down = services(place, "down")
        assert down.stdout.strip().endswith("stopped: mlflow, s3, postgres"), down.stderr
        assert not [name for name, known in running.items() if background.is_running(known)]
        assert services(place, "status").returncode == 1
        assert bystander.poll() is None
        again = services(place, "up", "--port", port)
        assert again.returncode == 0, again.stderr
        assert exported(root / "environment") == variables
        assert (root / "keys.json").read_text() == keys
        client = runs.connect()
        assert [point.step for point in client.get_metric_history(run_id, "a")] == list(range(1, 21))
        assert load("models:/tiny@champion").config == trained.recipe.model
    finally:
        services(place, "down")
        bystander.kill()
        bystander.wait()


def test_a_taken_port_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEQGEN_STATE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(BadInput, match=f"--port {taken}: taken"):
            stack.up(taken)
    assert stack.running() == {}


def test_what_is_not_installed_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres, "_DEBIAN", tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(BadInput, match="apt-get install postgresql"):
        postgres._programs()
    with pytest.raises(BadInput, match=r"SeaweedFS .*\.\[services\]"):
        s3._program()


def test_a_process_that_got_a_pid_of_ours_is_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEQGEN_STATE", raising=False)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        known = background.identity(bystander.pid)
        place = Place()
        place.make()
        place.write_state({"s3": {**known, "started": known["started"] - 60, "stop": 15}, "mlflow": {}})
        assert stack.running() == {}
        assert stack.down() == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert not background.is_running(known)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@pytest.mark.parametrize("elsewhere", [False, True])
def test_make_clean_stops_and_removes_them_wherever_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    project = tmp_path / "project"
    program = project / ".venv/bin/seqgen"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m pipelines.cli.main "$@"\n')
    program.chmod(0o755)
    shutil.copy(ROOT / "Makefile", project)
    monkeypatch.chdir(project)
    monkeypatch.setenv("SEQGEN_STATE", str(tmp_path / "state" if elsewhere else project / ".seqgen"))
    service = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    threading.Thread(target=service.wait, daemon=True).start()  # as init does for a real one
    try:
        place = Place()
        place.make()
        place.write_state({"mlflow": {**background.identity(service.pid), "stop": 15}})
        state = {"SEQGEN_STATE": os.environ["SEQGEN_STATE"]} if elsewhere else {}
        done = subprocess.run(["make", "clean"], env=outside(**state), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "stopped: mlflow" in done.stdout
        assert service.poll() == -15
        assert not place.root.exists()
    finally:
        service.kill()
