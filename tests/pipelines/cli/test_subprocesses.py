"""Stages in processes of their own: which run, how a failure comes back, and that none is left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from pipelines.cli.subprocesses import dvc_recipes, run_stages
from seqgen.core.errors import BadInput
from tests.finished_run import outside

STUBBORN = """
import os, signal, time
from pathlib import Path
signal.signal(signal.SIGTERM, signal.SIG_IGN)
Path("pid.tmp").write_text(str(os.getpid()))
Path("pid.tmp").rename("pid")
time.sleep(600)
"""
STAGES = """
from pipelines.cli.command import run
from pipelines.cli.signals import raise_on_stop
from pipelines.cli.subprocesses import run_stages
def work() -> None:
    raise_on_stop()
    run_stages("one", "report")
run(work, [])
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, value in outside().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SEQGEN_ARTIFACTS", raising=False)
    return tmp_path


def test_without_dvc_the_stages_run_in_order_up_to_the_last(here: Path, capfd: pytest.CaptureFixture[str]):
    assert dvc_recipes() == []
    run_stages("quickstart", "shard", ["train.seed=3"])
    started = [line for line in capfd.readouterr().out.splitlines() if line.startswith("+ ")]
    assert started == [
        f"+ -m pipelines.{verb} --recipe quickstart --set=train.seed=3" for verb in ("fetch", "shard")
    ]
    assert (here / "artifacts/quickstart/shards/manifest.json").is_file()


def test_a_stage_that_fails_is_the_last_and_its_code_is_the_error(
    here: Path, capfd: pytest.CaptureFixture[str]
):
    with pytest.raises(
        BadInput,
        match=r"pipelines\.fetch --recipe nonesuch ended with code 2: recipe 'nonesuch' is not",
    ):
        run_stages("nonesuch", "report")
    said = capfd.readouterr()
    assert said.out.count("+ ") == 1
    assert "recipe 'nonesuch' is not known" in said.err


@pytest.mark.slow
def test_a_stage_that_does_not_stop_is_killed_by_a_second_signal(here: Path):
    (here / "stubborn.py").write_text(STUBBORN)
    (here / "params.yaml").write_text("recipes: [one]\n")
    stages = {"report": {"matrix": {"recipe": "${recipes}"}, "cmd": "python stubborn.py"}}
    (here / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], check=True)
    assert dvc_recipes() == ["one"]

    process = subprocess.Popen([sys.executable, "-c", STAGES], stderr=subprocess.PIPE, text=True)
    while not (here / "pid").exists():
        assert process.poll() is None
        time.sleep(0.1)
    stubborn = psutil.Process(int((here / "pid").read_text()))
    process.send_signal(signal.SIGTERM)
    time.sleep(8)  # sooner it would be the same stop
    assert stubborn.is_running()
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.splitlines()[-1]) == (4, "error: stopped by SIGTERM")
    assert not stubborn.is_running() or stubborn.status() == psutil.STATUS_ZOMBIE
