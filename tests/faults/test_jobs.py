"""Jobs that `seqgen submit` sends to a real cluster: followed to their ends, stopped, refused."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.doctor import network
from tests.finished_run import outside
from tests.free_ports import free_ports
from tests.train_runs import ROOT, assert_complete, prepare_unhurried, saved, tracked, weights

pytestmark = pytest.mark.slow


@dataclass
class Site:
    """A directory with a recipe, shards and a local cluster; its own home, so that its token is its own."""

    where: Path
    dashboard: str

    @property
    def recipe(self) -> str:
        return str(self.where / "tiny.yaml")

    def start(self, *command: str, home: Path | None = None) -> subprocess.Popen[str]:
        arguments = ["--address", self.dashboard, *command]
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.submit", *arguments], cwd=self.where / "code", text=True,
            env=outside(HOME=str(home or self.where / "home")), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def submit(self, *command: str, home: Path | None = None) -> tuple[int, str]:
        process = self.start(*command, home=home)
        text, _ = process.communicate(timeout=500)
        return process.returncode, text


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    where = prepare_unhurried(tmp_path_factory.mktemp("site"))
    port, dashboard = free_ports(2)
    (where / "home").mkdir()
    code = where / "code"
    for package in ("pipelines", "seqgen", "data_prep"):
        shutil.copytree(ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".rayignore", code)
    verb = [sys.executable, "-m", "pipelines.cluster"]
    # Ray's own place, or a job goes to the cluster of this machine that started last; a socket's path is short.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as sessions:
        environment = outside(
            HOME=str(where / "home"),
            RAY_TMPDIR=sessions,
            # The kernels that the undisturbed run had: others round differently.
            XDG_CACHE_HOME=os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"),
        )
        environment["PYTHONPATH"] += f"{os.pathsep}{where}"  # the recipe's plugin
        try:
            subprocess.run(
                [*verb, "up", "--port", str(port), "--dashboard-port", str(dashboard)],
                cwd=where, env=environment, check=True, timeout=300,
            )  # fmt: skip
            yield Site(where, f"http://127.0.0.1:{dashboard}")
        finally:
            subprocess.run([*verb, "down"], cwd=where, env=environment, timeout=120)


def test_a_job_ends_with_the_verb_s_own_code_and_prints_what_it_prints(site: Site):
    # Without waiting after the cluster's start: there may be no agent yet.
    code, text = site.submit("--", "recipes")
    assert code == 0, text
    assert text.count("quickstart-characters") == 1
    assert "succeeded" in text
    # A verb's own code, which Ray's client does not pass on.
    code, text = site.submit("--", "train", "--recipe", site.recipe, "--set", "model.steps=0")
    assert code == 2, text
    assert "model.steps=0" in text
    assert "ended with code 2; see above" in text


def test_07_a_stopped_job_saves_and_the_same_one_ends_as_if_it_had_not_been_stopped(
    undisturbed: str, site: Site
):
    """A signal to who follows it stops it as `ray job stop` does."""
    # Nothing else saves: what is gone on with was saved because of the stop.
    seldom = ("--set", "train.checkpoint_every=1000", "--set", "train.checkpoint_minutes=1000")
    command = ("--", "train", "--recipe", site.recipe, *seldom)
    process = site.start(*command)
    assert process.stdout is not None
    heard = ""
    for line in process.stdout:
        heard += line
        if re.match(r"epoch +2/", line):
            process.send_signal(signal.SIGTERM)
            break
    rest, _ = process.communicate(timeout=400)
    text = heard + rest
    assert process.returncode == 4, text
    again = f"seqgen submit --address {site.dashboard} -- train --recipe"
    assert f"was stopped. Go on with: {again}" in text
    assert f"once more leaves it (seqgen submit --address {site.dashboard} --follow raysubmit_" in text
    assert "stopped in epoch" in text, text
    assert [run["status"] for run in tracked(site.where)] == ["KILLED"]
    assert saved(str(site.where / ".seqgen/ray")) > 0
    # Another process follows the same job: all it printed, and how it ended.
    (job,) = set(re.findall(r"raysubmit_\w+", text))
    code, once_more = site.submit("--follow", job)
    assert code == 4
    assert re.search(r"^epoch +2/", once_more, re.MULTILINE)
    code, text = site.submit("--follow", "raysubmit_none")
    assert (code, "no such job" in text) == (2, True)

    code, text = site.submit(*command)
    assert code == 0, text
    assert "going on after epoch" in text
    assert_complete(site.where)
    assert weights(site.where) == undisturbed


def test_without_the_token_nothing_is_taken(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code, text = site.submit("--", "recipes", home=tmp_path)
    assert code == 1
    assert "refuses us" in text
    assert "RAY_AUTH_TOKEN_PATH" in text
    # The doctor's view of the same cluster: with the token, with another one, with none.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", site.dashboard)
    for home, verdict, said in (
        (site.where / "home", "ok", "takes jobs with this user's token, and none without"),
        (tmp_path, "warning", "there is none here"),
    ):
        monkeypatch.setenv("HOME", str(home))
        finding = next(network.ray())
        assert (finding.verdict, said in finding.text) == (verdict, True), finding
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    assert next(network.ray()).verdict == "failed"
