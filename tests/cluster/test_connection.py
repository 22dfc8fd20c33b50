"""Connections that cannot work end with one line: what, where, what to do."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from offnominal.cluster import connection
from offnominal.cluster.connection import Cluster, connected
from offnominal.errors import SettingsError


def refused(address: str) -> str:
    """The message of a connection that fails, in a process of its own."""
    code = f"from offnominal.cluster.connection import connected\nwith connected({address!r}): pass"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1"])
def test_an_address_that_does_not_answer(address: str) -> None:
    assert f"--cluster {address}: does not answer (Connection refused); check the address" in refused(address)


@pytest.mark.parametrize("address", ["nonsense", "host:port", "ray://host:1"])
def test_an_address_that_is_none(address: str) -> None:
    assert f"--cluster {address}: give auto or HOST:PORT" in refused(address)


def test_an_address_of_another_service() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert f"--cluster {address}: cannot connect, since no Ray cluster answers there" in refused(address)


def test_versions_that_differ(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "version", lambda name: "0.0.1" if name == "offnominal" else _version(name))
    with (
        pytest.raises(SettingsError, match=r"has offnominal .*, this machine 0.0.1; install the same version"),
        connected("auto"),
    ):
        pass


def test_a_node_without_a_package(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SAME", ("offnominal", "not-installed"))
    monkeypatch.setattr(connection, "version", lambda name: "1")
    with (
        pytest.raises(SettingsError, match=r"has offnominal .*, this machine 1; install|has no not-installed"),
        connected("auto"),
    ):
        pass


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)
