"""Whatever ends a Ray job ends it in order: the CronJob's deadline, the head pod's preStop, `cluster down`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cli.subprocesses import GRACE
from pipelines.cluster.head import JOB_STOP_SECONDS
from tests.cluster_site import RAY, VERB, Site, cluster_site
from tests.infra.kube import documents, pod_templates

KUBERNETES = Path(__file__).parents[2] / "infra/kubernetes"
RETRAIN = "cd /srv/seqgen && exec python -m pipelines.retrain"
# Ray's own patience with a stopped job is 3 seconds.
SAVER = """
import pathlib, signal, sys, time
where = pathlib.Path(sys.argv[1])
def save(number, frame):
    time.sleep(6)
    while (where / "hold").exists():
        time.sleep(0.1)
    (where / "saved").touch()
    sys.exit(4)
signal.signal(signal.SIGTERM, save)
(where / "started").touch()
time.sleep(600)
"""


class Saver:
    """The command of a job that takes six seconds to save when it is stopped, and as long as there is a file `hold`."""

    def __init__(self, directory: Path) -> None:
        self.where, self.hold = directory, directory / "hold"
        directory.mkdir()
        (directory / "saver.py").write_text(SAVER)
        self.command = f"exec {sys.executable} {directory}/saver.py {directory}"

    @property
    def saved(self) -> bool:
        return (self.where / "saved").exists()

    def wait(self) -> None:
        deadline = time.monotonic() + 200
        while not (self.where / "started").exists():
            assert time.monotonic() < deadline, "the job has not started"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with cluster_site(tmp_path_factory.mktemp("site")) as made:
        yield made


def cronjob_script() -> str:
    (job,) = documents(KUBERNETES / "retrain-cronjob.yaml")
    (pod,) = pod_templates(job)
    command = pod["spec"]["containers"][0]["command"]
    assert command[:2] == ["sh", "-c"]
    return command[2]


@pytest.mark.slow
def test_the_deadline_of_the_cronjob_stops_the_ray_job_which_saves(site: Site, tmp_path: Path):
    saver = Saver(tmp_path / "job")
    script = cronjob_script()
    assert RETRAIN in script
    environment = {"JOB": "seqgen-retrain-1-abcde", "RAY_API_SERVER_ADDRESS": site.dashboard}
    environment |= {"RAY_AUTH_MODE": "token", "PATH": f"{Path(RAY).parent}{os.pathsep}{os.environ['PATH']}"}
    pod = subprocess.Popen(
        ["sh", "-c", script.replace(RETRAIN, saver.command)], cwd=site.where, text=True,
        env={**site.environment, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        saver.wait()
        pod.terminate()  # as a kubelet does: to the first process alone
        text, _ = pod.communicate(timeout=200)
    finally:
        if pod.poll() is None:
            os.killpg(pod.pid, signal.SIGKILL)
    assert saver.saved, text
    assert pod.returncode == 128 + signal.SIGTERM
    code, status = site.call(
        RAY, "job", "status", "--address", site.dashboard, environment["JOB"], RAY_AUTH_MODE="token"
    )
    assert (code, "was stopped" in status) == (0, True), status


@pytest.mark.slow
def test_drain_and_down_stop_jobs_which_save(site: Site, tmp_path: Path):
    submit = (RAY, "job", "submit", "--address", site.dashboard, "--no-wait", "--", "sh", "-c")
    drain = (*VERB, "drain", "--dashboard-port", site.dashboard.rpartition(":")[2])

    first = Saver(tmp_path / "first")
    first.hold.touch()
    assert site.call(*submit, first.command, RAY_AUTH_MODE="token")[0] == 0
    first.wait()
    # Who does not wait for its save says which job it is.
    impatient = (
        f"from pipelines.cluster import head; head._KILL_SECONDS = 1; head.stop_jobs({site.dashboard!r})"
    )
    code, text = site.call(sys.executable, "-c", impatient, RAY_JOB_STOP_WAIT_TIME_S="0")
    assert (code, first.saved) == (1, False), text
    assert re.search(r"raysubmit_\w+ at .* did not end within 1 s of SIGTERM", text), text
    first.hold.unlink()
    code, text = site.call(*drain)
    assert (code, first.saved) == (0, True), text
    assert text.startswith("stopped raysubmit_")
    assert site.call(*drain) == (0, "no job is running\n")

    second = Saver(tmp_path / "second")
    assert site.call(*submit, second.command, RAY_AUTH_MODE="token")[0] == 0
    second.wait()
    assert site.call(*VERB, "down") == (0, "stopped\n")
    assert second.saved
    code, text = site.call(*drain)
    assert (code, "no cluster answers there" in text) == (1, True), text


def test_everyone_waits_longer_than_what_it_waits_for():
    """A stopped verb's processes < a stopped Ray job < a worker that is kept for it < its pod."""
    assert GRACE < JOB_STOP_SECONDS
    (settings,) = [part for part in documents(KUBERNETES / "base.yaml") if part["kind"] == "ConfigMap"]
    assert settings["data"]["RAY_JOB_STOP_WAIT_TIME_S"] == str(JOB_STOP_SECONDS)
    rays = 0
    for path in KUBERNETES.glob("*.yaml"):
        for template in pod_templates(documents(path)):
            (container,) = template["spec"]["containers"]
            stop = container.get("lifecycle", {}).get("preStop", {})
            grace = template["spec"].get("terminationGracePeriodSeconds", 0)
            if container["name"] == "ray-head":
                assert stop == {"exec": {"command": ["python", "-m", "pipelines.cluster", "drain"]}}
            elif container["name"] == "ray-worker":
                assert JOB_STOP_SECONDS <= stop["sleep"]["seconds"] < grace
            if container["name"] in ("ray-head", "ray-worker", "submit"):
                assert grace > JOB_STOP_SECONDS
                rays += 1
    assert rays == 11
    for path in KUBERNETES.glob("*ray*job*.yaml"):
        assert f"timeout --kill-after={JOB_STOP_SECONDS} " in path.read_text()
