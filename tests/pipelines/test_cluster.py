"""The local cluster: what a job uploads, whom `down` stops, and a job from submission to its products."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml
from ray._common.utils import get_ray_address_file

from pipelines.cluster import __main__ as cluster
from seqgen.core.errors import BadInput
from tests.pipelines.test_tune import TREE
from tests.sets import write_digits

ROOT = Path(__file__).resolve().parents[2]
CODE = ["pipelines/train.py", "pipelines/recipes/own.yaml", "seqgen/data/batches.py", "data_prep/fetch.py"]
PRIVATE = [
    ".venv/lib/python3.11/site-packages/torch/__init__.py", ".git/config", ".dvc/cache/files/md5/0a/b1",
    ".dvc/config.local", ".dvc/tmp/lock", ".seqgen/ray/run/weights.pt", "artifacts/own/shards/t.tar",
    "artifacts/own/raw/omniglot.zip", "mlflow.db", "mlflow.db-wal", "mlartifacts/1/model/weights.safetensors",
    "data/train-images-idx3-ubyte", "benchmarks/out.npy", "pipelines/__pycache__/train.cpython-311.pyc",
    ".pytest_cache/v/nodeids", ".env", ".env.production", "infra/server.env", "credentials", ".aws/config",
    "infra/credentials.json", "infra/tls/server.key", "infra/tls/server.pem", ".netrc", "id_rsa",
]  # fmt: skip


def test_a_job_uploads_the_code_and_no_data_caches_or_secrets(tmp_path: Path):
    for name in (".rayignore", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path)
    for name in CODE + PRIVATE:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("canary")
    uploaded = cluster.upload(tmp_path)
    assert set(uploaded) == {*CODE, ".rayignore", ".gitignore"}
    assert uploaded[CODE[0]] == len("canary")


def test_this_project_uploads_all_its_code_and_little_else():
    uploaded = cluster.upload(ROOT)
    code = {
        str(path.relative_to(ROOT))
        for package in ("data_prep", "seqgen", "pipelines")
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".yaml", ".html")
    }
    assert code <= set(uploaded)
    assert sum(uploaded.values()) < 20_000_000


@pytest.mark.parametrize("port", [80, 10_500, 19_999, 70_000])
def test_ports_that_ray_cannot_use_are_refused(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=f"--dashboard-port {port}"):
        cluster.up(*ports(1), port)
    assert not list(tmp_path.iterdir())


def test_a_taken_port_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(BadInput, match=f"{taken}: taken"):
            cluster.up(taken, *ports(1))


def test_down_stops_no_process_that_up_did_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert not cluster.down()
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        started = psutil.Process(bystander.pid).create_time()
        (tmp_path / ".seqgen").mkdir()
        for state in ({"pid": bystander.pid, "started": started - 60}, {"pid": bystander.pid}, []):
            (tmp_path / ".seqgen/cluster.json").write_text(json.dumps(state))
            assert cluster.running() is None
            assert not cluster.down()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def ports(count: int) -> list[int]:
    """Free ports below those the system hands out and outside those of Ray's workers."""
    found: list[int] = []
    for port in range(20_000 + os.getpid() % 5_000, 32_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


@dataclass
class Site:
    """A directory with shards and a local cluster; its own home, so that its token is its own."""

    where: Path
    port: int
    dashboard: str
    environment: dict[str, str]

    def call(self, *command: str, **changes: str) -> tuple[int, str]:
        done = subprocess.run(
            command, cwd=self.where, env={**self.environment, **changes}, text=True, timeout=300,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return done.returncode, done.stdout

    def submit(self, *verb: str, **changes: str) -> tuple[int, str]:
        ray = str(Path(sys.executable).with_name("ray"))
        submit = [ray, "job", "submit", "--address", self.dashboard, "--working-dir", str(ROOT)]
        commit = json.dumps({"env_vars": {"SEQGEN_COMMIT": "abc123"}})
        return self.call(
            *submit,
            "--runtime-env-json",
            commit,
            "--",
            "python",
            "-m",
            *verb,
            RAY_AUTH_MODE="token",
            **changes,
        )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    port, dashboard = ports(2)
    write_digits(tmp_path / "artifacts/tiny/shards")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TREE))
    (tmp_path / "home").mkdir()
    outside = {
        key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "SEQGEN_"))
    }
    environment = {**outside, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home")}
    made = Site(tmp_path, port, f"http://127.0.0.1:{dashboard}", environment)
    verb = (sys.executable, "-m", "pipelines.cluster")
    try:
        code, text = made.call(*verb, "up", "--port", str(port), "--dashboard-port", str(dashboard))
        assert code == 0, text
        assert f"ray job submit --address {made.dashboard} --working-dir . -- python -m" in text
        yield made
    finally:
        made.call(*verb, "down")


@pytest.mark.slow
def test_jobs_from_up_to_down(site: Site):
    verb = (sys.executable, "-m", "pipelines.cluster")
    code, text = site.call(*verb, "status")
    assert (code, site.dashboard in text) == (0, True)

    # Without the token nothing is run.
    (site.where / "stranger").mkdir()
    code, text = site.submit("pipelines.train", HOME=str(site.where / "stranger"))
    assert code != 0
    assert "token" in text.lower()

    # A run: its progress is streamed, its products are here, not in the copy the job ran in.
    tiny = ("--recipe", str(site.where / "tiny.yaml"), "--set", "train.epochs=2", "--workers", "1")
    code, text = site.submit("pipelines.train", *tiny)
    assert code == 0, text
    assert "epoch 1/2" in text
    run = json.loads((site.where / "artifacts/tiny/train/run.json").read_text())
    assert run["epochs"] == 2
    from mlflow import MlflowClient

    tracked = MlflowClient(f"sqlite:///{site.where / 'mlflow.db'}").get_run(run["run_id"])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.tags["seqgen.ray_job"].startswith("raysubmit_")
    assert tracked.data.tags["seqgen.git_commit"] == "abc123"

    # A run that is refused: its reason is streamed, and the submission fails.
    code, text = site.submit("pipelines.train", *tiny, "--set", "model.steps=0")
    assert code == 1
    assert "model.steps=0" in text

    # Down: all the processes of this head end.
    head = psutil.Process(json.loads((site.where / ".seqgen/cluster.json").read_text())["pid"])
    family = [head, *head.children(recursive=True)]
    assert len(family) > 3
    code, text = site.call(*verb, "down")
    assert (code, text) == (0, "stopped\n")
    assert not [process for process in family if process.is_running() and process.status() != "zombie"]
    assert site.call(*verb, "status")[0] == 1
    note = Path(get_ray_address_file(None))
    assert not note.exists() or not note.read_text().endswith(f":{site.port}"), "of a cluster that has ended"
