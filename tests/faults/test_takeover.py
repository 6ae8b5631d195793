"""One run on two machines: the second takes over from the first that was silent, and the first writes nothing more."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests import train_runs
from tests.train_runs import prepare_unhurried, running, tracked, train

# A machine here is a working directory, with locks and shards of its own.
SHORT_LEASE = """
from pipelines.cluster import storage
storage.LEASE_SECONDS = 12
from pipelines.cli.command import run
from pipelines.train import train
run(train)
"""


@pytest.mark.slow
def test_26_a_machine_that_was_away_stops_where_another_took_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    prepare_unhurried(first)
    shutil.copytree(first, second)
    asked = ("--workers=1", "--set=train.epochs=2000")
    monkeypatch.setattr(
        train_runs,
        "command",
        lambda *arguments: [sys.executable, "-c", SHORT_LEASE, "--recipe", "tiny.yaml", *arguments],
    )
    variables = {
        "SEQGEN_STORAGE": str(tmp_path / "storage"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{first / 'mlflow.db'}",
    }
    with running(first, *asked, **variables) as away:
        away.wait_for("epoch    3/")
        refused = train(second, *asked, **variables)
        assert refused.returncode == 1, refused.stdout + refused.stderr
        assert f"is being worked on by another process (pid {away.process.pid} on " in refused.stderr
        away.process.send_signal(signal.SIGSTOP)  # its worker goes on
        with running(second, *asked, **variables) as here:
            here.wait_for("going on after epoch")
            away.process.send_signal(signal.SIGCONT)
            assert away.end() == 4, away.text
            assert f"was taken over by pid {here.process.pid} on " in away.text
            assert "Go on with" not in away.text
            assert [run["status"] for run in tracked(first)] == ["RUNNING"]
            here.process.send_signal(signal.SIGTERM)
            assert here.end() == 4, here.text
    assert [run["status"] for run in tracked(first)] == ["KILLED"]
