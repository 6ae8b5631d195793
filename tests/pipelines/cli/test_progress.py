"""Progress: bars with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli.progress import Display, EpochLines, TrainingDisplay, clock

ROOT = Path(__file__).parents[3]
OBJECTIVE = "valid/dynamic/free_energy"


def row(epoch: int, seconds: float = 60.0, **more: float) -> dict[str, float]:
    metrics = {"train/free_energy": 101.5, "train/kl": 20.25, "images_per_second": 1234.0, "seconds": seconds}
    return {"epoch": epoch, "step": 7 * epoch, **metrics, **more}


def on_a_terminal(script: str) -> str:
    """What a fresh interpreter writes to a terminal of 100 columns."""
    parent, child = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen([sys.executable, "-c", script], stdout=child, env=environment)
    os.close(child)
    written = b""
    try:
        while chunk := os.read(parent, 65536):
            written += chunk
    except OSError:  # Linux's end of a terminal
        pass
    finally:
        os.close(parent)
    assert process.wait() == 0
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", written.decode())


def test_a_line_of_an_epoch_has_bound_rate_and_time_left():
    lines = EpochLines(30, OBJECTIVE)
    first = lines.line(row(1, seconds=120.0, **{OBJECTIVE: 98.765}))
    words = "epoch 1/30 held-out 98.77 nats train 101.50 KL 20.25 1234 images/s 58m00s left"
    assert " ".join(first.split()) == words
    assert "held-out         - nats" in lines.line(row(2))
    assert lines.line(row(3, seconds=60.0)).endswith("36m00s left")  # 27 epochs of (120 + 60 + 60) / 3 s


def test_times_are_short():
    shown = [clock(seconds) for seconds in (0.4, 59.4, 60, 3599, 3660)]
    assert shown == ["0s", "59s", "1m00s", "59m59s", "1h01m"]


def test_without_a_terminal_a_training_is_plain_lines(capsys: pytest.CaptureFixture[str]):
    with TrainingDisplay(3, OBJECTIVE) as display:
        display.say("starting")
        display.epoch(row(1))
        display.epoch(row(2))
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "starting"
    assert [line[:21] for line in out[1:]] == ["epoch 1/3  held-out  ", "epoch 2/3  held-out  "]
    assert "\x1b" not in "".join(out)


def test_without_a_terminal_other_work_says_its_quarters_and_not_its_end(capsys: pytest.CaptureFixture[str]):
    with Display("images") as display:
        advance = display.counter("bounds", 10)
        for _ in range(10):
            advance(1)
        display.at("large", 60, 100)
        display.at("large", 70, 100)
        display.at("small", 5, 5)
        display.at("unknown", 5, None)
    assert capsys.readouterr().out.splitlines() == [
        "bounds: 25 %",
        "bounds: 50 %",
        "bounds: 75 %",
        "large: 50 %",
    ]


def test_on_a_terminal_there_is_a_bar_with_rate_and_time_left_and_lines_stay():
    script = f"""
import time
from pipelines.cli.progress import Display, TrainingDisplay
from tests.pipelines.cli.test_progress import row
with TrainingDisplay(3, {OBJECTIVE!r}) as display:
    display.say("starting [on] two")
    for epoch in (1, 2):
        time.sleep(0.2)
        display.epoch(row(epoch))
    time.sleep(0.2)
with Display("bytes") as display:
    for done in range(4):
        display.at("one.zip", 1_000_000 * done, 5_000_000)
        display.at("two.zip", done, None)
        time.sleep(0.2)
    print("printed meanwhile")
"""
    shown = on_a_terminal(script)
    assert "starting [on] two" in shown
    assert "epoch 1/3  held-out" in shown
    assert re.search(r"training .* 2/3 +[\d.]+ epochs/s +0:00:\d\d", shown)
    assert re.search(r"one\.zip .* 3\.0/5\.0 MB +[\d.]+ [kM]B/s +0:00:\d\d", shown)
    assert re.search(r"two\.zip .* 3/\? bytes", shown)
    assert "printed meanwhile" in shown
