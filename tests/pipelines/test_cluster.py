"""The cluster verb: from `up` to `down` in processes of their own, with a job from submission to its products."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ray._common.utils import get_ray_address_file

from tests.cluster_site import ROOT, VERB, Site, cluster_site
from tests.finished_run import outside, tiny_recipe
from tests.free_ports import free_ports
from tests.sets import write_digits


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    write_digits(tmp_path / "artifacts/tiny/shards")
    tiny_recipe(tmp_path)
    with cluster_site(tmp_path) as made:
        yield made


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


def test_without_a_cluster_status_is_1_and_down_does_nothing(tmp_path: Path):
    for action, code in (("status", 1), ("down", 0)):
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.cluster", action], cwd=tmp_path, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (code, "no cluster of this directory is running\n")


@pytest.mark.slow
def test_two_at_once_start_one_cluster(tmp_path: Path):
    (tmp_path / "home").mkdir()
    port, dashboard = free_ports(2)
    environment = {**outside(), "PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home")}
    up = [*VERB, "up", "--port", str(port), "--dashboard-port", str(dashboard)]
    try:
        both = [
            subprocess.Popen(up, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        said = [process.communicate(timeout=400)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0]
        pid = json.loads((tmp_path / ".seqgen/cluster.json").read_text())["pid"]
        assert sum("starting Ray" in text for text in said) == 1
        assert all(f"Ray runs (pid {pid}, port {port})" in text for text in said)
    finally:
        subprocess.run([*VERB, "down"], cwd=tmp_path, env=environment, timeout=200)
