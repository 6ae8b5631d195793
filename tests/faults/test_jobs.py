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
from pathlib import Path

import pytest

from pipelines.doctor import network
from tests.cluster_site import Site, cluster_site
from tests.finished_run import outside
from tests.planted import SECRETS, found
from tests.train_runs import ROOT, assert_complete, prepare_unhurried, saved, tracked, weights

pytestmark = pytest.mark.slow
PLANTED = {name: secret for name, secret in SECRETS.items() if name != "RAY_AUTH_TOKEN"}  # it makes its own


def recipe(site: Site) -> str:
    return str(site.where / "tiny.yaml")


def start(site: Site, *command: str, home: Path | None = None) -> subprocess.Popen[str]:
    """Submit `command`, or follow a job, from a copy of the code and by the token of `home`."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.submit", "--address", site.dashboard, *command],
        cwd=site.where / "code", text=True, env=outside(HOME=str(home or site.where / "home")),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def submit(site: Site, *command: str, home: Path | None = None) -> tuple[int, str]:
    process = start(site, *command, home=home)
    text, _ = process.communicate(timeout=500)
    return process.returncode, text


@pytest.fixture(scope="module")
def sessions() -> Iterator[Path]:
    """Where Ray keeps the cluster's session: not in its own place, or a job goes to whichever cluster started last."""
    # A socket's path is short.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, sessions: Path) -> Iterator[Site]:
    """A directory with a recipe, its shards, a copy of the code and a cluster that was started with secrets."""
    where = prepare_unhurried(tmp_path_factory.mktemp("site"))
    for package in ("pipelines", "seqgen", "data_prep"):
        shutil.copytree(
            ROOT / package, where / "code" / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / ".rayignore", where / "code")
    with cluster_site(
        where,
        **PLANTED,
        RAY_TMPDIR=str(sessions),
        PYTHONPATH=f"{ROOT}{os.pathsep}{where}",  # the recipe's plugin
        # The threads and the kernels that the undisturbed run had: others round differently.
        OMP_NUM_THREADS="1",
        XDG_CACHE_HOME=os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"),
    ) as site:
        yield site


def test_a_job_ends_with_the_verb_s_own_code_and_prints_what_it_prints(site: Site):
    # Without waiting after the cluster's start: there may be no agent yet.
    code, text = submit(site, "--", "recipes")
    assert code == 0, text
    assert text.count("quickstart-characters") == 1
    assert "succeeded" in text
    # A verb's own code, which Ray's client does not pass on.
    code, text = submit(site, "--", "train", "--recipe", recipe(site), "--set", "model.steps=0")
    assert code == 2, text
    assert "model.steps=0" in text
    assert "ended with code 2; see above" in text


def test_07_a_stopped_job_saves_and_the_same_one_ends_as_if_it_had_not_been_stopped(
    undisturbed: str, site: Site, sessions: Path
):
    """A signal to who follows it stops it as `ray job stop` does; and nothing that is left has a secret."""
    # Nothing else saves: what is gone on with was saved because of the stop.
    seldom = ("--set", "train.checkpoint_every=1000", "--set", "train.checkpoint_minutes=1000")
    command = ("--", "train", "--recipe", recipe(site), *seldom)
    process = start(site, *command)
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
    code, once_more = submit(site, "--follow", job)
    assert code == 4
    assert re.search(r"^epoch +2/", once_more, re.MULTILINE)
    code, text = submit(site, "--follow", "raysubmit_none")
    assert (code, "no such job" in text) == (2, True)

    said = heard + rest + once_more + text
    code, text = submit(site, *command)
    assert code == 0, text
    assert "going on after epoch" in text
    assert_complete(site.where)
    assert weights(site.where) == undisturbed
    # The cluster's own token is in its file, and nowhere else.
    file = site.where / "home/.ray/auth_token"
    token = file.read_text().strip()
    assert found(site.where, sessions, text=said + text, more=(token,)) == [f"{file}: {token}"]


def test_without_the_token_nothing_is_taken(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code, text = submit(site, "--", "recipes", home=tmp_path)
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
