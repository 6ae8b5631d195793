"""Reaching a cluster: one that is gone is named at once, where Ray itself would wait for minutes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import yaml

from pipelines.cluster.connect import connected
from seqgen.core.errors import BadInput, OperationalError
from tests.free_ports import free_ports
from tests.sets import write_digits
from tests.tiny_search import TREE
from tests.verb_process import verb


def reach(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with connected():
        raise AssertionError("there is no cluster")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_closed_port_is_named(scheme: str, monkeypatch: pytest.MonkeyPatch):
    address = f"{scheme}127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(
        OperationalError, match=f"RAY_ADDRESS={address}: nothing answers there: .*start that cluster"
    ):
        reach(address, monkeypatch)


def test_a_port_that_takes_connections_and_never_answers_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.cluster.connect._PATIENCE", 2.0)
    with socket.create_server(
        ("127.0.0.1", 0)
    ) as server:  # the kernel takes the connections, and nobody reads
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(
            OperationalError, match=f"RAY_ADDRESS={address}: it takes connections, and does not answer"
        ):
            reach(address, monkeypatch)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "head", "head:port", ":6379"])
def test_an_address_of_another_kind_is_bad_input(address: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(BadInput, match=f"RAY_ADDRESS={address}: give <host>:<port>"):
        reach(address, monkeypatch)


@pytest.mark.parametrize("name", ["train", "tune", "chaos"])
def test_every_verb_that_connects_ends_with_1_where_the_cluster_is_gone(name: str, tmp_path: Path):
    write_digits(tmp_path / "artifacts/tiny/shards")
    tree = {**TREE, "search": TREE["search"] if name == "tune" else None}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree))
    address = f"127.0.0.1:{free_ports(1)[0]}"
    done = verb(tmp_path, name, "--recipe", "tiny.yaml", RAY_ADDRESS=address)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"error: RAY_ADDRESS={address}: nothing answers there" in done.stdout + done.stderr
