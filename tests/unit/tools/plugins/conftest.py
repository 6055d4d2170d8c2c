"""Fixtures that several files here share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.tools.plugins.kubernetes_server import ApiServer, Engine, install_plugin, running


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real kube-apiserver, without a controller manager."""
    with running(tmp_path_factory.mktemp("api-server")) as server:
        yield server


@pytest.fixture(scope="session")
def kubernetes_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PULUMI_HOME that holds the kubernetes stand-in."""
    home = tmp_path_factory.mktemp("pulumi-home")
    install_plugin(home, tmp_path_factory.mktemp("plugins"))
    return home


@pytest.fixture
def engine(tmp_path: Path, kubernetes_home: Path, api_server: ApiServer) -> Callable[..., Engine]:
    """Makes a Pulumi project on the API server (or on another kubeconfig)."""

    def make(kubeconfig: Path | str | None = None) -> Engine:
        return Engine(tmp_path / "project", kubernetes_home, kubeconfig or api_server.kubeconfig)

    return make
