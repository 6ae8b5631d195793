"""Files by key: the same in a folder and in a bucket of a real S3 server."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines.storage import Missing, Store, open_store
from seqgen.core.errors import BadInput
from tests.s3_server import S3Server

LARGE = os.urandom(20 * 2**20)  # three parts in a bucket
NOW = timedelta()


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.slow)])
def either(
    request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """A store of each kind."""
    if request.param == "folder":
        yield open_store(str(tmp_path / "root"))
        return
    with S3Server(tmp_path_factory.mktemp("s3")) as server, pytest.MonkeyPatch.context() as environment:
        server.client().create_bucket(Bucket="runs")
        for name, value in server.environment().items():
            environment.setenv(name, value)
        yield open_store("s3://runs/some/prefix")


def test_files_are_kept_by_key(either: Store, tmp_path: Path):
    large = tmp_path / "large"
    large.write_bytes(LARGE)
    sha256 = either.put_file(large, "a/large")
    assert sha256 == hashlib.sha256(LARGE).hexdigest()
    either.get_file("a/large", tmp_path / "there/back", sha256)
    assert (tmp_path / "there/back").read_bytes() == LARGE
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["back"]

    either.write("a/state.json", b"1")
    either.write("a/state.json", b"{}")
    either.write("b/empty", b"")
    assert (either.read("a/state.json"), either.read("b/empty"), either.read("a/none")) == (b"{}", b"", None)
    assert either.list() == ["a/large", "a/state.json", "b/empty"]
    assert (either.list("a/s"), either.list("c")) == (["a/state.json"], [])
    assert (either.exists("a/large"), either.exists("a/larg"), either.exists("a")) == (True, False, False)
    with pytest.raises(Missing, match="a/none: not there"):
        either.get_file("a/none", tmp_path / "none")
    either.delete(
        [*(f"none/{number}" for number in range(1500)), "a/large", "b/empty"]
    )  # more than S3 takes at once
    assert either.list() == ["a/state.json"]
    for key in ("", "/etc/x", "../x", "a//b", "a/"):
        with pytest.raises(BadInput, match="a key is a relative path"):
            either.write(key, b"")


def test_one_of_many_who_create_a_file_does(either: Store):
    won: list[int] = []
    start = threading.Barrier(8)

    def attempt(number: int) -> None:
        start.wait()
        if either.create("a/created", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert either.read("a/created") == str(won[0]).encode()
    assert not either.create("a/created", str(won[0]).encode()), "also what is the same is another's"
    assert either.list() == ["a/created"]
    assert not either.leftovers(NOW)
    either.delete(["a/created"])
    assert either.create("a/created", b"anew")


def test_preflight_leaves_nothing(either: Store):
    either.preflight(creates=True)
    assert either.list() == []
    assert not either.leftovers(NOW)


@pytest.mark.parametrize("root", ["relative/path", "gs://bucket/x", "s3://", "s3://runs/x?region=here"])
def test_an_address_that_is_none_is_bad_input(root: str):
    with pytest.raises(BadInput, match=r"storage .*s3://<bucket>/<prefix>"):
        open_store(root)


def test_a_folder_that_cannot_be_written_is_bad_input(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=f"{tmp_path}/file/.*name a folder that can be written"):
        open_store(str(tmp_path / "file")).preflight(creates=False)


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_hard_links_takes_a_training_and_no_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
):
    def refuse(source: str, target: str, **_: object) -> None:
        raise OSError(number, os.strerror(number), source, None, target)

    store = open_store(str(tmp_path / "root"))
    monkeypatch.setattr(os, "link", refuse)
    store.preflight(creates=False)
    with pytest.raises(
        BadInput, match=f"{tmp_path}/root: its file system has no hard links, .*SEQGEN_STORAGE"
    ):
        store.preflight(creates=True)
    assert store.list() == []
    assert not store.leftovers(NOW)
