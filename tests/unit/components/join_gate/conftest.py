"""Fixtures: a host with a real CFSSL and the real gate, and nodes registered there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.components.join_gate.gate_host import Host, TestNode, registered, running


@pytest.fixture(scope="session")
def shared_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """One host for all tests that only add nodes of their own."""
    with running(tmp_path_factory.mktemp("authority")) as host:
        yield host


@pytest.fixture
def own_host(tmp_path: Path) -> Iterator[Host]:
    """A host for a test that stops or breaks something."""
    with running(tmp_path) as host:
        yield host


@pytest.fixture
def node(shared_host: Host) -> TestNode:
    """A registered node of its own name."""
    return registered(shared_host)
