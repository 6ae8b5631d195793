"""Reaching a cluster: one that is gone is named at once, where Ray itself would wait for minutes."""

from __future__ import annotations

import socket

import pytest

from pipelines.cluster.connect import connected
from seqgen.core.errors import BadInput, OperationalError
from tests.free_ports import free_ports


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
