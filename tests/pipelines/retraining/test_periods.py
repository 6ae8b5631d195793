"""Around a retraining: one in a period, failures counted and told."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from pipelines.retraining import record as records
from pipelines.retraining.alert import alert
from pipelines.retraining.record import Record, remembered_in, seconds_of
from pipelines.storage import open_store
from seqgen.core.errors import BadInput, OperationalError
from tests.s3_server import S3Server

HOUR = 3600


@pytest.mark.slow
def test_what_was_remembered_without_a_sha256_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As retraining wrote it to buckets once."""
    with S3Server(tmp_path) as server:
        server.client().create_bucket(Bucket="runs")
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SEQGEN_STORAGE", "s3://runs/prefix")
        for name, value in (
            ("last.json", {"began": time.time(), "outcome": "failed", "ended": time.time()}),
            ("failures.json", {"in_a_row": 2, "last": "no. 2", "at": time.time()}),
        ):
            server.client().put_object(
                Bucket="runs", Key=f"prefix/retrain/tiny/{name}", Body=json.dumps(value).encode()
            )
        record = Record(remembered_in("tiny"))
        assert "(failed)" in record.not_due(24 * HOUR)
        assert record.count_failure("no. 3") == 3
        record.forget_failures()
        assert record.count_failure("the first") == 1


def test_storage_that_is_not_there_is_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEQGEN_STORAGE", str(tmp_path / "file"))
    with pytest.raises(BadInput, match=r"file/retrain/tiny/failures\.json: Not a directory"):
        Record(remembered_in("tiny")).count_failure("")


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
    clock = Clock(Record(open_store(str(tmp_path))))
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
    clock.record.give_up()  # it was counted, and a firing may find nothing to do
    assert not clock.record.interrupted()
    assert clock.retrains("failed")
    clock.record.give_up()
    assert not clock.retrains()
    clock.now += 24 * HOUR
    assert clock.retrains()


def test_who_lost_the_lease_does_not_write_the_end_of_who_took_over(clock: Clock) -> None:
    clock.record.begin()
    clock.now += HOUR
    taken_over = Record(clock.record.store)
    taken_over.begin()
    clock.record.end("stopped")
    assert taken_over.interrupted()
    taken_over.end("done")
    assert "(done)" in clock.record.not_due(24 * HOUR)


def test_failures_are_counted_until_it_goes_well(tmp_path: Path) -> None:
    record = Record(open_store(str(tmp_path)))
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
