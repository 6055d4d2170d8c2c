"""Kubeconfigs, and connections that fail."""

from __future__ import annotations

import base64
import json
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.tools.plugins.kubernetes_server import ApiServer
from tools.plugins.kubernetes_access import AccessError, load, looks_like_contents, to_kubeconfig
from tools.plugins.kubernetes_client import Client


def document(cluster: dict[str, Any], user: dict[str, Any]) -> dict[str, Any]:
    return {
        "current-context": "c",
        "contexts": [
            {"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "n"}},
            {"name": "d", "context": {"cluster": "k", "user": "u"}},
        ],
        "clusters": [{"name": "k", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
    }


def test_contents_and_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "ca.pem").write_text("PEM")
    text = json.dumps(
        document(
            {"server": "https://h:6443/p/", "certificate-authority": "ca.pem"},
            {"tokenFile": "token"},
        )
    )
    path = tmp_path / "config"
    path.write_text(text)
    found = load(str(path))
    assert (found.host, found.port, found.prefix) == ("h", 6443, "/p")
    assert (found.namespace, found.authority, found.token) == ("n", "PEM", "secret")
    assert load(str(path), context="d").namespace == "default"
    monkeypatch.setenv("KUBECONFIG", str(path))
    assert load(None) == found
    assert looks_like_contents(text) and not looks_like_contents(str(path))
    monkeypatch.chdir(tmp_path)
    assert load(text) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [\nb", "not YAML, line 2"),
        ("- a\n- b", "not a map but list"),
        ("{}", "no current-context"),
        ("{current-context: x, contexts: [{name: y}]}", r"no context named 'x' \(it has: y\)"),
        (yaml.safe_dump(document({"server": "h:1"}, {})), "'h:1' is not an http"),
        (
            yaml.safe_dump(document({"server": "https://h"}, {"exec": {"command": "aws"}})),
            "signs in by `exec`",
        ),
        (
            yaml.safe_dump(document({"server": "https://h"}, {"client-key": "/absent"})),
            "client-key /absent can't be read",
        ),
        (
            yaml.safe_dump(
                document({"server": "https://h", "certificate-authority-data": "/w=="}, {})
            ),
            "certificate-authority-data is not base64 of PEM",
        ),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(AccessError, match=message) as error:
        load(str(path))
    assert str(path) in str(error.value)


def test_written_kubeconfig_is_the_same_access(api_server: ApiServer) -> None:
    access = load(str(api_server.kubeconfig))
    again = load(to_kubeconfig(access, "elsewhere"))
    assert again.namespace == "elsewhere"
    assert (again.server, again.certificate, again.key) == (
        access.server,
        access.certificate,
        access.key,
    )


def test_strange_authority_is_not_trusted(api_server: ApiServer) -> None:
    other = api_server.kubeconfig_document()
    folder = api_server.folder
    certificate = base64.b64encode((folder / "admin.pem").read_bytes()).decode()
    other["clusters"][0]["cluster"]["certificate-authority-data"] = certificate
    reason = Client(load(json.dumps(other))).unreachable_reason()
    assert reason is not None and "certificate is not trusted" in reason


def test_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.plugins.kubernetes_client.CONNECT_SECONDS", 0.3)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        text = json.dumps(document({"server": f"https://127.0.0.1:{port}"}, {}))
        reason = Client(load(text)).unreachable_reason()
    assert reason is not None and "no answer in time" in reason
