"""Storage: what S3 does to a store (a real server behind a fault proxy), and what a killed process leaves."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from data_prep import s3
from pipelines.storage import Altered, Store, open_store
from pipelines.tracking.source_files import ROOT
from seqgen.core.errors import BadInput, OperationalError
from tests.fault_proxy import Answer, Cut, CutAnswer, Fault, FaultProxy, Request, Reset, Slow
from tests.s3_server import ADMIN, READER, RENEWED, Key, S3Server

pytestmark = pytest.mark.slow
LARGE = os.urandom(20 * 2**20)  # three parts
NOW, A_DAY = timedelta(), timedelta(days=1)
# A machine whose clock is wrong, for one process.
SHIFTED_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int answer = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += atol(getenv("CLOCK_SHIFT"));
    return answer;
}
"""


@pytest.fixture(params=["folder", "bucket"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of each kind."""
    return (
        request.getfixturevalue("store") if request.param == "bucket" else open_store(str(tmp_path / "root"))
    )


@pytest.fixture
def store(s3_proxy: FaultProxy, tmp_path: Path) -> Store:
    """A prefix of its own, behind the proxy."""
    return open_store(f"s3://runs/{tmp_path.name}")


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(LARGE)
    return path


def part(number: int) -> Callable[[Request], bool]:
    """The upload of this part of a file."""
    return lambda request: request.method == "PUT" and f"partNumber={number}" in request.path


def statuses(s3_proxy: FaultProxy) -> list[int | str]:
    return [request.outcome for request in s3_proxy.requests]


@pytest.mark.parametrize(
    "fault",
    [Answer(503, "SlowDown"), Answer(500), Answer(502, body=b"<html>Bad Gateway</html>"), Reset()],
    ids=["503", "500", "a gateway's page", "reset"],
)
def test_22_what_passes_is_tried_again_and_leaves_no_trace(
    s3_proxy: FaultProxy, store: Store, large: Path, tmp_path: Path, fault: Fault
):
    s3_proxy.inject(fault, times=3)
    store.put_file(large, "large")
    calls: list[Callable[[], object]] = [
        lambda: store.get_file("large", tmp_path / "back"),
        lambda: store.write("small", b"x"),
        lambda: store.list(),
        lambda: store.delete(["small"]),
    ]
    for call in calls:
        s3_proxy.heal()
        s3_proxy.inject(fault)
        call()
        assert statuses(s3_proxy)[0] in (500, 502, 503, "Reset")
    assert (tmp_path / "back").read_bytes() == LARGE
    assert store.list() == ["large"]
    assert not store.leftovers(NOW)


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        (Cut(100_000), part(2)),
        (CutAnswer(100_000), lambda request: request.method == "GET"),
    ],
    ids=["upload", "download"],
)
def test_22_a_transfer_cut_in_the_middle_is_done_again(
    s3_proxy: FaultProxy,
    store: Store,
    large: Path,
    tmp_path: Path,
    fault: Fault,
    where: Callable[[Request], bool],
):
    s3_proxy.inject(fault, where, times=2)
    store.put_file(large, "large")
    store.get_file("large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == LARGE
    assert statuses(s3_proxy).count(type(fault).__name__) == 2


def test_22_a_server_that_says_nothing_is_asked_again(
    s3_proxy: FaultProxy, store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(s3, "_SILENCE", 3)
    s3_proxy.inject(Slow(8), times=2)
    store.write("small", b"x")
    assert store.read("small") == b"x"
    assert [request.method for request in s3_proxy.requests][:3] == ["PUT"] * 3


def test_22_what_does_not_pass_names_the_address(
    s3_proxy: FaultProxy, store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    s3_proxy.inject(Answer(503, "SlowDown"), times=None)
    with pytest.raises(OperationalError) as caught:
        store.write("small", b"x")
    assert f"{store.root}/small: PutObject was answered SlowDown at {s3_proxy.address}, 3 times" in str(
        caught.value
    )
    assert statuses(s3_proxy) == [503] * 3
    s3_proxy.heal()
    s3_proxy.down()
    with pytest.raises(
        OperationalError, match=f"{store.root}/small: .* {s3_proxy.address} cannot be reached"
    ):
        store.write("small", b"x")
    s3_proxy.up()
    assert store.list() == []
    store.write("small", b"x")
    assert store.read("small") == b"x"


@pytest.mark.parametrize("when", [lambda request: True, part(2)], ids=["at once", "in mid-upload"])
def test_24_an_expired_token_is_refreshed_once(
    s3_proxy: FaultProxy,
    store: Store,
    large: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: Callable,
):
    def hand_out(key: Key) -> None:
        credentials.write_text(
            f"[default]\naws_access_key_id={key.access}\naws_secret_access_key={key.secret}\n"
        )

    credentials = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    hand_out(ADMIN)
    store.write("small", b"x")
    hand_out(RENEWED)  # as an agent of the cloud does, at any time
    s3_proxy.heal()
    s3_proxy.inject(
        Answer(400, "ExpiredToken"),
        lambda request: ADMIN.access in request.signed_by and when(request),
        times=None,
    )
    store.put_file(large, "large")
    store.get_file("large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == LARGE
    assert statuses(s3_proxy).count(400) == 1
    assert not store.leftovers(NOW)


def test_24_a_token_that_stays_expired_is_tried_twice(s3_proxy: FaultProxy, store: Store):
    store.write("small", b"x")
    for call in (lambda: store.write("small", b"y"), lambda: store.read("small")):
        s3_proxy.heal()
        s3_proxy.inject(Answer(400, "ExpiredToken"), times=None)
        with pytest.raises(OperationalError, match=r"small: .* ExpiredToken .*have expired .*renew them"):
            call()
        assert [request.method for request in s3_proxy.requests if request.method != "HEAD"] in (
            ["PUT"] * 2,
            ["GET"] * 2,
        )


@pytest.mark.parametrize(
    ("key", "bucket", "said"),
    [
        (READER, "runs", r"PutObject was answered AccessDenied .* lacks the right"),
        (ADMIN, "absent", r".* NoSuchBucket .*; create the bucket or correct the address"),
        (
            Key("", "unknown", ADMIN.secret, ()),
            "runs",
            r".* InvalidAccessKeyId .*; correct AWS_ACCESS_KEY_ID",
        ),
        (
            Key("", ADMIN.access, "wrong-secret", ()),
            "runs",
            r".* SignatureDoesNotMatch .*; correct AWS_SECRET_ACCESS_KEY",
        ),
    ],
    ids=["a reader's key", "no bucket", "unknown key", "wrong secret"],
)
def test_24_a_refusal_is_not_tried_again(
    s3_server: S3Server,
    s3_proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    key: Key,
    bucket: str,
    said: str,
):
    for name, value in s3_server.environment(key, s3_proxy.address).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=rf"s3://{bucket}/x/\S+: {said}") as caught:
        open_store(f"s3://{bucket}/x").preflight(creates=True)
    assert caught.value.exit_code == 2
    assert key.secret not in str(caught.value)
    assert len(s3_proxy.requests) == 1


def test_24_a_refused_read_says_why(
    s3_server: S3Server, s3_proxy: FaultProxy, store: Store, monkeypatch: pytest.MonkeyPatch
):
    store.write("small", b"x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(BadInput, match="SignatureDoesNotMatch"):
        store.sha256("small")  # asked for by a HEAD, the answer to which is a bare 403


def test_24_no_credentials_are_bad_input(
    s3_proxy: FaultProxy, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(BadInput, match=f"{store.root}/.*no AWS credentials found"):
        store.preflight(creates=True)


def test_24_a_key_that_may_not_delete_is_found_before_the_start(s3_proxy: FaultProxy, store: Store):
    # S3 answers 200, and in it what it refused.
    refusal = b"<Error><Key>x</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
    s3_proxy.inject(
        Answer(200, body=b"<DeleteResult>" + refusal + b"</DeleteResult>"),
        lambda request: "?delete" in request.path,
    )
    with pytest.raises(BadInput, match="DeleteObjects was answered AccessDenied"):
        store.preflight(creates=True)


def test_25_an_upload_that_is_given_up_is_aborted(
    s3_proxy: FaultProxy, store: Store, large: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    store.put_file(large, "large")
    before = hashlib.sha256(LARGE).hexdigest()
    large.write_bytes(LARGE[::-1])
    s3_proxy.inject(Cut(100_000), part(2), times=None)
    with pytest.raises(OperationalError, match=r"large: .* cannot be reached"):
        store.put_file(large, "large")
    assert store.list() == ["large"]
    assert hashlib.sha256(store.read("large") or b"").hexdigest() == before  # the one before, whole
    assert not store.leftovers(NOW)


def test_25_what_an_outage_left_can_be_removed(
    s3_proxy: FaultProxy, store: Store, large: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    begun = part(2)  # from there on nothing comes through, nor does boto3's abort
    s3_proxy.inject(Reset(), lambda request: any(begun(other) for other in s3_proxy.requests), times=None)
    with pytest.raises(OperationalError, match="cannot be reached"):
        store.put_file(large, "large")
    s3_proxy.heal()
    assert store.list() == []
    assert not store.exists("large")
    check_leftover(store, "large")
    store.put_file(large, "large")
    assert store.list() == ["large"]


def test_25_what_a_killed_process_left_can_be_removed(
    either: Store, request: pytest.FixtureRequest, tmp_path: Path
):
    """Half of the file is on its way: into a folder through a pipe, into a bucket before the second part."""
    source, process = tmp_path / "source", None
    if either.root.startswith("s3://"):
        s3_proxy: FaultProxy = request.getfixturevalue("s3_proxy")
        source.write_bytes(LARGE)
        s3_proxy.inject(
            Slow(600), lambda request: "partNumber" in request.path and not part(1)(request), times=None
        )
        process = putting(source, either.root)
        wait_for(lambda: any(part(1)(one) and one.outcome == 200 for one in s3_proxy.requests))
        kill(process)
    else:
        os.mkfifo(source)
        process = putting(source, either.root)
        with source.open("wb") as stream:
            stream.write(LARGE[: len(LARGE) // 2])
            stream.flush()
            kill(process)
    assert either.list() == []
    assert not either.exists("run/large")
    check_leftover(either, "run/large")


def check_leftover(store: Store, key: str) -> None:
    """There is one, of this key; it may be of a process that works on it, is young therefore, and can be removed."""
    assert not store.leftovers(A_DAY)
    (leftover,) = store.leftovers(NOW)
    assert leftover.key == key
    store.remove(leftover)
    assert not store.leftovers(NOW)
    store.remove(leftover)


def putting(source: Path, root: str) -> subprocess.Popen[bytes]:
    """Another process that puts the file."""
    program = (
        "import sys; from pathlib import Path; from pipelines.storage import open_store; "
        "open_store(sys.argv[2]).put_file(Path(sys.argv[1]), 'run/large')"
    )
    return subprocess.Popen([sys.executable, "-c", program, str(source), root], cwd=ROOT)


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(60)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


def test_26_an_object_replaced_under_us_is_found_by_its_sha256(
    s3_server: S3Server, store: Store, tmp_path: Path
):
    sha256 = store.write("run/index.json", b"ours")
    s3_server.client().put_object(Bucket="runs", Key=f"{tmp_path.name}/run/index.json", Body=b"theirs")
    theirs = hashlib.sha256(b"theirs").hexdigest()
    with pytest.raises(Altered, match=f"{store.root}/run/index.json: put by another program, .* {theirs}"):
        store.read("run/index.json")
    with pytest.raises(Altered, match=f"put with sha256 {sha256}, now has sha256 {theirs}"):
        store.read("run/index.json", sha256)
    with pytest.raises(Altered, match="replaced"):
        store.get_file("run/index.json", tmp_path / "index.json")
    assert not (tmp_path / "index.json").exists()


def test_26_a_file_replaced_by_our_own_is_found_too(either: Store, large: Path, tmp_path: Path):
    sha256 = either.put_file(large, "large")
    either.write("large", b"another run's")
    with pytest.raises(Altered, match=f"put with sha256 {sha256}"):
        either.get_file("large", tmp_path / "back", sha256)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(("shift", "said"), [(3600, "ahead of"), (-7200, "behind")])
def test_27_a_wrong_clock_is_told_and_by_how_much(s3_server: S3Server, tmp_path: Path, shift: int, said: str):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here: the clock of a process cannot be shifted")
    library = tmp_path / "clock.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", library, "-ldl"],
        input=SHIFTED_CLOCK.encode(),
        check=True,
    )
    environment = s3_server.environment() | {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(shift)}
    program = (
        "from pipelines.storage import open_store; open_store('s3://runs/clock').preflight(creates=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert "RequestTimeTooSkewed" in done.stderr
    assert "OperationalError" in done.stderr
    seconds = int(done.stderr.partition("clock of this machine is wrong: ")[2].partition(" seconds")[0])
    assert abs(seconds - abs(shift)) <= 60
    assert f"seconds {said} the server's" in done.stderr
