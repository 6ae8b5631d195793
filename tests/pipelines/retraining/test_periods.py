"""Around a retraining: one holder of a lease, one retraining in a period, failures counted and told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from pipelines.cli import signals
from pipelines.cli.signals import raise_on_stop
from pipelines.retraining import record as records
from pipelines.retraining.alert import alert
from pipelines.retraining.lease import leased
from pipelines.retraining.places import Bucket, Folder, Place, place_of
from pipelines.retraining.record import Record, seconds_of
from seqgen.core.errors import BadInput, OperationalError, StoppedEarly
from seqgen.core.locks import Taken
from tests.finished_run import outside

HOUR = 3600


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    moto.stop()


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Shared storage of either kind."""
    root = str(tmp_path)
    if request.param == "s3":
        for key, value in request.getfixturevalue("server").items():
            monkeypatch.setenv(key, value)
        boto3.Session().client("s3").create_bucket(Bucket="storage")
        root = f"s3://storage/{tmp_path.name}"
    monkeypatch.setenv("SEQGEN_STORAGE", root)
    return place_of("tiny")


def test_files_are_whole_and_one_of_many_creates_one(place: Place) -> None:
    assert isinstance(place, Bucket if place.address.startswith("s3://") else Folder)
    assert (place.names(), place.read("a")) == ([], None)
    won: list[int] = []
    start = threading.Barrier(8)

    def attempt(number: int) -> None:
        start.wait()
        if place.create("a", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert place.read("a") == str(won[0]).encode()
    place.write("a", b"over")
    place.write("b", b"")
    assert (place.names(), place.read("a")) == (["a", "b"], b"over")
    for name in ("a", "b", "none"):
        place.remove(name)
    assert place.names() == []


HOLD = """
import sys, time
from pipelines.retraining.lease import leased
from pipelines.retraining.places import place_of
with leased(place_of("tiny"), 3):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_dead_holder_keeps_others_out_for_its_lease_and_no_longer(place: Place) -> None:
    aws = {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
    environment = outside(SEQGEN_STORAGE=os.environ["SEQGEN_STORAGE"], **aws)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    for _ in range(2):  # longer than its 3 s: it is renewed
        with pytest.raises(Taken, match=rf"held by another process \(pid {holder.pid} on "), leased(place, 3):
            pass
        time.sleep(4)
    holder.kill()
    holder.wait()
    deadline = time.monotonic() + 60
    while True:
        try:
            with leased(place, 3):
                break
        except Taken:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    with leased(place, 3):  # let go, it is free at once
        pass
    assert len(place.names()) <= 2


def test_who_was_away_too_long_is_stopped(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def work_on() -> None:
        with leased(place, 1):
            (name,) = place.names()
            entry = json.loads(place.read(name) or b"") | {"holder": "another", "key": "of another"}
            assert place.create("lease-000002.json", json.dumps(entry).encode())
            time.sleep(60)

    monkeypatch.setattr(signals, "_stopped_by", None)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        raise_on_stop()
        with pytest.raises(StoppedEarly, match="the lease was taken over by another, which goes on"):
            work_on()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert json.loads(place.read("lease-000002.json") or b"")["holder"] == "another"


def test_a_lease_of_the_future_or_a_damaged_one_is_an_error_and_no_silence(place: Place) -> None:
    entry = {"holder": "pid 1 on there", "key": "k", "renewed": time.time() + 5000, "seconds": 100}
    place.write("lease-000007.json", json.dumps(entry).encode())
    with (
        pytest.raises(
            OperationalError, match=r"lease-000007\.json: renewed .* from now by pid 1 on there: a clock"
        ),
        leased(place, 100),
    ):
        pass
    place.write("lease-000007.json", b"{")
    with pytest.raises(OperationalError, match=r"lease-000007\.json: damaged"), leased(place, 100):
        pass


def test_storage_that_is_not_there_is_bad_input(
    server: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in server.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("SEQGEN_STORAGE", "s3://nowhere")
    with (
        pytest.raises(BadInput, match="s3://nowhere/retrain/tiny: NoSuchBucket"),
        leased(place_of("tiny"), 1),
    ):
        pass


class Clock:
    """A clock that tests set; the machine's own is not theirs to set."""

    def __init__(self, record: Record) -> None:
        self.record, self.now = record, 1_800_000_000.0

    def time(self) -> float:
        return self.now

    def retrains(self, outcome: str = "done", period: int = 24 * HOUR) -> bool:
        """Whether a schedule that fires now retrains."""
        if self.record.not_due(period):
            return False
        self.record.begin()
        if outcome != "killed":
            self.record.end(outcome)  # type: ignore[arg-type]
        return True


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(Record(Folder(tmp_path)))
    monkeypatch.setattr(records, "time", clock)
    clock.now -= clock.now % (24 * HOUR)
    return clock


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_a_year_of_hours_has_a_retraining_a_day(
    clock: Clock, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        days = []
        for _ in range(365 * 24):
            clock.now += HOUR
            if clock.retrains():
                days.append(clock.now // (24 * HOUR))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert days == sorted(set(days))
    assert len(days) == 366  # the first hour of the year after, too


def test_a_clock_that_is_put_back_gives_no_second_one(clock: Clock) -> None:
    clock.now += 30 * 60
    assert clock.retrains()
    for back in (1, HOUR, 24 * HOUR):
        clock.now -= back
        assert "next period begins at" in clock.record.not_due(24 * HOUR)
        clock.now += back
    clock.now -= 25 * HOUR
    with pytest.raises(OperationalError, match="which is still to come: a clock is or was wrong"):
        clock.retrains()
    clock.now += 49 * HOUR
    assert clock.retrains()


def test_a_failed_one_used_its_period_and_an_interrupted_one_goes_on(clock: Clock) -> None:
    assert clock.retrains("stopped")
    assert clock.retrains("killed")
    assert clock.record.interrupted()
    assert clock.retrains("failed")
    assert not clock.record.interrupted()
    assert not clock.retrains()
    clock.now += 24 * HOUR
    assert clock.retrains()


def test_who_lost_the_lease_does_not_write_the_end_of_who_took_over(clock: Clock) -> None:
    clock.record.begin()
    clock.now += HOUR
    taken_over = Record(clock.record.place)
    taken_over.begin()
    clock.record.end("stopped")
    assert taken_over.interrupted()
    taken_over.end("done")
    assert "(done)" in clock.record.not_due(24 * HOUR)


def test_failures_are_counted_until_it_goes_well(tmp_path: Path) -> None:
    record = Record(Folder(tmp_path))
    assert [record.count_failure(f"no. {number}") for number in range(3)] == [1, 2, 3]
    record.forget_failures()
    assert record.count_failure("again") == 1
    (tmp_path / "last.json").write_text('{"began": 1}')
    with pytest.raises(OperationalError, match=r"last\.json: damaged"):
        record.not_due(HOUR)


def test_spans(capsys: pytest.CaptureFixture[str]) -> None:
    assert [seconds_of(text, "--period") for text in ("90s", "30m", "12h", "1d")] == [90, 1800, 43200, 86400]
    for text in ("", "1", "d", "0d", "-1d", "1.5h", "1 d", "1w", "99999999d"):
        with pytest.raises(BadInput, match=r"--period .*: write a number and s, m, h or d"):
            seconds_of(text, "--period")


def test_an_alert_gets_json_and_its_trouble_is_a_warning(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = f"import sys; open({str(tmp_path / 'got')!r}, 'w').write(sys.stdin.read())"
    alert(f'{sys.executable} -c "{code}"', {"recipe": "a b", "message": "ü"})
    assert json.loads((tmp_path / "got").read_text()) == {"recipe": "a b", "message": "ü"}
    assert capfd.readouterr().err == ""
    for command, problem in (
        ("false", "ended with code 1"),
        ("no-such-command", "did not run"),
        ("'", "did not run"),
    ):
        alert(command, {})
        assert f"warning: the alert command {problem}" in capfd.readouterr().err
