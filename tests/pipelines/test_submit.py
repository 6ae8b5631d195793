"""`seqgen submit`: what leaves and what does not, and what it makes of a cluster that answers badly."""

from __future__ import annotations

import re
import shutil
import signal
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from pipelines.cli import signals
from pipelines.cli.again import SUBMITTED, again
from pipelines.cli.command import run
from pipelines.cluster import jobs, leaks
from pipelines.cluster.upload import left_out, pack
from pipelines.submit import submit as verb
from seqgen.core.errors import StoppedEarly
from tests.free_ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
# A key of the form that Amazon issues; nobody's, and in two halves, so that this file itself may leave.
KEY = "AKIA" + "Q3EGZ7HWMN2VXK5T"
SECRET = "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzz91abCDef"
PRIVATE_KEY = (
    "-----BEGIN PRIVATE " + "KEY-----\n" + 2 * ("MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7" + "\n")
)


def submit(*arguments: str) -> int:
    """The verb as its command line, in this process and the working directory; its exit code."""
    with pytest.raises(SystemExit) as ended:
        run(verb, list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with code, data and Ray's list of what stays; no cluster is known in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE"):  # the verb sets them
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    shutil.copy(ROOT / ".rayignore", tmp_path)
    for name in ("pipelines/train.py", "artifacts/own/shards/t.tar", "docs/page.md", "notes.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text\n")
    return tmp_path


def test_a_dry_run_lists_just_what_ray_would_upload_and_what_is_left_out(
    project: Path, capsys: pytest.CaptureFixture[str]
):
    code = submit("--dry-run", "--", "train", "--recipe", "tiny")
    out, err = capsys.readouterr()
    assert code == 0, err
    goes, stays = out.split("left out:")
    listed = {line.split()[1] for line in goes.splitlines() if line and "bytes in" not in line}
    assert listed == {".rayignore", "pipelines/train.py", "docs/page.md"}
    assert listed == set(pack(project, project.parent / "package.zip"))
    assert re.search(r"5  artifacts/ \(1 files\)\n +5  notes.npy", stays)
    assert stays.endswith("runs: python -m pipelines.train --recipe tiny\n")


def test_what_is_left_out_and_what_goes_is_all_there_is(project: Path):
    packed = pack(project, project.parent / "package.zip")
    stays = {name: count for name, count, _ in left_out(project, packed)}
    assert stays == {"artifacts/": 1, "notes.npy": 1}
    assert len(packed) + sum(stays.values()) == sum(path.is_file() for path in project.rglob("*"))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("docs/page.md", f"a\nkey: {KEY}\n", "docs/page.md:2: an AWS access key"),
        ("conf.ini", SECRET, "conf.ini:1: an AWS secret key"),
        ("notes.txt", PRIVATE_KEY, "notes.txt:1: a private key"),
        (".kube/config", "x", ".kube/config: a file for secrets"),
        ("store.p12", "x", "store.p12: a file for secrets"),
        ("app/auth_token", "x", "app/auth_token: a file for secrets"),
    ],
)
def test_a_secret_in_the_upload_is_refused_and_never_quoted(
    project: Path, name: str, text: str, said: str, capsys: pytest.CaptureFixture[str]
):
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).write_text(text)
    code = submit("--address", "http://127.0.0.1:1", "--", "train")
    out, err = capsys.readouterr()
    assert code == 2
    assert said in err
    assert ".rayignore" in err
    for secret in (KEY, SECRET[-40:], "MIIEv"):
        assert secret not in out + err


@pytest.mark.parametrize(
    ("options", "command", "said"),
    [
        (["--env", "AWS_SECRET_ACCESS_KEY=canary"], [], "AWS_SECRET_ACCESS_KEY: a secret, by its name"),
        (["--env", f"NOTE={KEY}"], [], "NOTE: an AWS access key"),
        (["--env", "URI=http://me:canary@host"], [], "URI: an address with a password"),
        ([], ["--set=x=postgresql://me:canary@host/db"], "word 1 of the command: an address with a password"),
        ([], ["--token=canary"], "word 1 of the command (token): a secret, by its name"),
    ],
)
def test_a_secret_in_variables_or_words_is_refused(
    project: Path, options: list[str], command: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    code = submit(*options, "--", "train", *command)
    out, err = capsys.readouterr()
    assert code == 2
    assert said in err
    assert "canary" not in out + err


def test_this_project_itself_holds_nothing_that_looks_like_a_secret(tmp_path: Path):
    pack(ROOT, tmp_path / "package.zip")
    assert list(leaks.in_package(tmp_path / "package.zip")) == []


def test_an_upload_that_no_dashboard_takes_is_refused(project: Path, capsys: pytest.CaptureFixture[str]):
    with (project / "large.bin").open("wb") as file:
        file.truncate(101 * 2**20)
    code = submit("--dry-run", "--", "train")
    _out, err = capsys.readouterr()
    assert code == 2
    assert "large.bin (105,906,176)" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--", "tran"], "verb 'tran': no verb to submit; did you mean train?"),
        ([], "nothing to run"),
        (["--env", "x", "--", "train"], "--env x: give NAME=VALUE"),
        (["--address", "host:8265", "--", "train"], "--address host:8265: give the dashboard's"),
        (["--", "train"], "no cluster: give --address"),
        (["--follow", "job-1", "--", "train"], "--follow job-1: takes no command"),
        (["--follow", "job-1", "--no-wait"], "--follow job-1: takes no command and no other option"),
    ],
)
def test_bad_input_is_named(
    project: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    code = submit(*arguments)
    _out, err = capsys.readouterr()
    assert (code, said in err) == (2, True), err


def test_a_cluster_that_is_not_there_is_named(project: Path, capsys: pytest.CaptureFixture[str]):
    (port,) = free_ports(1)
    code = submit("--address", f"http://127.0.0.1:{port}", "--", "train")
    _out, err = capsys.readouterr()
    assert code == 1
    assert f"http://127.0.0.1:{port}: no cluster answers there" in err


def test_the_command_to_go_on_with_is_the_one_that_submits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(SUBMITTED, raising=False)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-m", "pipelines.train", "--recipe", "a b"])
    assert again() == "python -m pipelines.train --recipe 'a b'"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert again() == "seqgen submit -- train --recipe 'a b'"
    monkeypatch.setenv(SUBMITTED, "seqgen submit --address http://h:1 -- train")
    assert again() == "seqgen submit --address http://h:1 -- train"


class Cut:
    """A client whose connection breaks off while a job is followed, later than any patience for a first one."""

    def __init__(self, *tails: tuple[str, ...]) -> None:
        self.tails = list(tails)

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        for text in self.tails.pop(0):
            yield text
        if self.tails:
            raise RuntimeError("WebSocket connection closed unexpectedly")


def test_a_lost_connection_is_made_again_and_nothing_is_printed_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(jobs, "_PATIENCE", 0.0)
    ended = threading.Event()
    jobs._print_logs(Cut(("one\n", "tw"), ("one",), ("one\ntwo\nth", "ree\n")), "job", ended)  # type: ignore[arg-type]
    assert capsys.readouterr().out == "one\ntwo\nthree\n"
    ended.set()  # the cluster is gone: one attempt more
    jobs._print_logs(Cut(("one\n",), ("never",)), "job", ended)  # type: ignore[arg-type]
    assert capsys.readouterr().out == "one\n"


class Hiccup:
    """A client whose process gets SIGTERM while it follows, and whose dashboard takes a second stop only."""

    def __init__(self) -> None:
        self.asked = 0

    def get_job_info(self, job: str) -> JobDetails:
        if not self.asked:
            signal.raise_signal(signal.SIGTERM)
        status = JobStatus.STOPPED if self.asked > 1 else JobStatus.RUNNING
        return JobDetails(type=JobType.SUBMISSION, entrypoint="", status=status)

    def stop_job(self, job: str) -> None:
        self.asked += 1
        if self.asked == 1:
            raise ConnectionError("Connection refused")

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        yield "epoch 1\n"


def test_a_stop_while_the_dashboard_is_away_is_made_up_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(signals, "_stopped_by", None)
    client = Hiccup()
    with pytest.raises(StoppedEarly, match=r"job job-1 was stopped\. Go on with: again"):
        jobs.follow(client, "http://me:canary@host:1", "job-1", "again")  # type: ignore[arg-type]
    assert client.asked == 2
    out = capsys.readouterr().out
    told = r"stopping job job-1; once more leaves it \(seqgen submit --address .*host:1'? --follow job-1\)\n"
    assert len(re.findall(told, out)) == 1
    assert "canary" not in out
