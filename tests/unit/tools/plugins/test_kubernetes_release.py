"""helm.sh/v3 Release with the real helm on a real API server."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.tools.plugins.kubernetes_server import ROOT, ApiServer, Engine, free_port, tool
from tools.plugins import kubernetes_helm as helm_
from tools.plugins.base import CheckFailures, Failure, InitializationFailed, Request
from tools.plugins.kubernetes import RELEASE, KubernetesProvider
from tools.plugins.kubernetes_helm import Found
from tools.plugins.values import UNKNOWN, Asset, Secret

SECRET = "open-sesame"

CONFIG_MAP = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-settings}
data: {colour: {{ .Values.colour | quote }}, note: {{ .Values.note | quote }}}
"""
# An address outside the cluster's range: the API server refuses it, and the release fails.
BROKEN = """\
{{- if .Values.broken }}
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}-broken}
spec: {clusterIP: 203.0.113.1, ports: [{port: 80}]}
{{- end }}
"""
# No controller runs the job, so helm waits for it until it is killed.
HANGING = """\
{{- if .Values.hang }}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}-hang
  annotations: {helm.sh/hook: "pre-install,pre-upgrade"}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: none}]}}}
{{- end }}
"""


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    (folder / "templates").mkdir(parents=True)
    (folder / "Chart.yaml").write_text(
        "apiVersion: v2\nname: tiny\nversion: 1.2.3\nappVersion: '9'\n"
    )
    (folder / "values.yaml").write_text("colour: white\nnote: ''\nbroken: false\nhang: false\n")
    for name, text in (("settings", CONFIG_MAP), ("broken", BROKEN), ("hang", HANGING)):
        (folder / "templates" / f"{name}.yaml").write_text(text)
    return folder


class Release:
    """One Release resource, step by step, as the engine would drive it."""

    def __init__(self, api_server: ApiServer, chart: Path, name: str) -> None:
        self.provider = KubernetesProvider()
        self.provider.configure({"kubeconfig": str(api_server.kubeconfig)})
        self.chart = chart
        self.name = name

    def request(self, inputs: dict[str, Any] | None = None, **fields: Any) -> Request:
        urn = f"urn:pulumi:s::p::{RELEASE}::{self.name}"
        return Request(urn=urn, type=RELEASE, name=self.name, inputs=inputs or {}, **fields)

    def inputs(self, **values: Any) -> dict[str, Any]:
        given = {"chart": str(self.chart), "name": self.name, "skipAwait": True, "values": values}
        return self.provider.handler(RELEASE).check(self.request(given))

    def create(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return self.provider.handler(RELEASE).create(self.request(inputs)).outputs

    def update(self, inputs: dict[str, Any]) -> dict[str, Any]:
        request = self.request(inputs, identifier=f"default/{self.name}")
        return self.provider.handler(RELEASE).update(request)

    def delete(self, inputs: dict[str, Any]) -> None:
        request = self.request(identifier=f"default/{self.name}", old_inputs=inputs)
        self.provider.handler(RELEASE).delete(request)


@pytest.fixture
def release(
    api_server: ApiServer, chart: Path, request: pytest.FixtureRequest
) -> Iterator[Release]:
    name = request.node.name.replace("test_", "").replace("_", "-")[:40].strip("-")
    made = Release(api_server, chart, name)
    yield made
    made.delete({"skipAwait": True})


def settings(api_server: ApiServer, name: str) -> dict[str, Any] | None:
    found = api_server.get("v1", "ConfigMap", "default", f"{name}-settings")
    return found["data"] if found else None


def test_release_under_the_engine(
    engine: Callable[..., Engine], api_server: ApiServer, chart: Path
) -> None:
    project = engine()
    program = f"""
release = k8s.helm.v3.Release(
    "tiny",
    chart="{chart}",
    values={{"colour": "VALUE", "note": pulumi.Output.secret("{SECRET}")}},
    opts=here,
)
for name in ("version", "status", "resource_names", "values"):
    see(name, getattr(release, name))
see("id", release.id)
"""
    project.program(program.replace("VALUE", "red"))
    preview = project.run("preview", "--diff")
    assert SECRET not in preview
    assert set(project.seen()) == {"version", "values"}, "status is unknown in a preview"

    assert SECRET not in project.up()
    seen = project.seen()
    name = seen["status"]["name"]
    assert name.startswith("tiny-") and seen["id"] == f"default/{name}"
    assert seen["resource_names"] == {"ConfigMap/v1": [f"{name}-settings"]}
    assert seen["status"]["status"] == "deployed" and seen["status"]["revision"] == 1
    assert seen["version"] == seen["status"]["version"] == "1.2.3"
    assert settings(api_server, name) == {"colour": "red", "note": SECRET}
    assert SECRET not in str(project.state())

    project.up("--refresh", "--expect-no-changes")
    project.program(program.replace("VALUE", "blue"))
    step = project.preview()["tiny"]
    assert step["op"] == "update" and list(step["detailedDiff"]) == ["values.colour"]
    assert SECRET not in project.up()
    assert project.seen()["status"]["revision"] == 2
    assert settings(api_server, name) == {"colour": "blue", "note": SECRET}
    project.run("destroy", "--yes", "--skip-preview")
    assert settings(api_server, name) is None


def test_check_resolves_and_merges(release: Release, tmp_path: Path) -> None:
    handler = release.provider.handler(RELEASE)
    file = tmp_path / "values.yaml"
    file.write_text("colour: red\nmap: {a: 1, b: 2}\n")
    given = {
        "chart": str(release.chart),
        "compat": "true",
        "valueYamlFiles": [Asset(False, path=str(file)), Asset(False, text="map: {b: 3}")],
        "values": {"map": {"c": None, "d": 4}},
    }
    checked = handler.check(release.request(given))
    assert checked["version"] == "1.2.3"
    assert checked["timeout"] == 300
    assert checked["namespace"] == "default"
    assert checked["values"] == {"colour": "red", "map": {"a": 1, "b": 3, "d": 4}}
    assert not {"compat", "valueYamlFiles"} & checked.keys()
    again = release.request(given, old_inputs=checked)
    assert handler.check(again) == checked

    hidden = handler.check(release.request(given, secrets=frozenset({"valueYamlFiles"})))
    assert isinstance(hidden["values"], Secret)
    late = handler.check(release.request({"chart": UNKNOWN, "values": UNKNOWN}))
    assert late["chart"] is UNKNOWN and late["values"] is UNKNOWN and "version" not in late
    with pytest.raises(CheckFailures, match="check the chart name and repository"):
        handler.check(release.request({"chart": "./nothing"}))
    with pytest.raises(CheckFailures, match="lint"):
        handler.check(release.request({**given, "lint": True}))


def test_unreachable_repository_is_no_error_in_preview(release: Release) -> None:
    handler = release.provider.handler(RELEASE)
    repository = {"repo": f"http://127.0.0.1:{free_port()}"}
    given = {"chart": "cilium", "version": "1.18.4", "repositoryOpts": repository}
    checked = handler.check(release.request(given))
    assert checked["version"] == "1.18.4"
    foretold = handler.create(release.request(checked, preview=True))
    assert foretold.outputs["status"] is UNKNOWN and foretold.outputs["chart"] == "cilium"
    with pytest.raises(Failure, match="connection refused"):
        handler.create(release.request({**checked, "name": "x"}))


def test_diff(release: Release) -> None:
    handler = release.provider.handler(RELEASE)
    old = {"name": "n", "namespace": "a", "chart": "c", "version": "1", "values": {"x": 1}}
    live = {**old, "status": {"status": "deployed"}, "values": {"x": 1, "helm": "adds"}}

    def replaces(**change: Any) -> tuple[dict[str, str], list[str]]:
        request = release.request({**old, **change}, old_inputs=old, old_outputs=live)
        found = handler.diff(request)
        return found.paths, found.replaces

    assert replaces() == ({}, [])
    assert replaces(values={"x": 2}) == ({"values.x": "UPDATE"}, [])
    assert replaces(version="2") == ({"version": "UPDATE"}, [])
    assert replaces(namespace="b") == ({"namespace": "UPDATE"}, ["namespace"])
    drifted = {**live, "values": {"x": 7}}
    request = release.request(old, old_inputs=old, old_outputs=drifted)
    assert handler.diff(request).paths == {"values.x": "UPDATE"}


def test_failed_install_is_kept_and_repaired(release: Release, api_server: ApiServer) -> None:
    with pytest.raises(InitializationFailed, match="status: failed") as failed:
        release.create(release.inputs(broken=True))
    assert failed.value.identifier == f"default/{release.name}"
    assert failed.value.outputs["status"]["status"] == "failed"
    outputs = release.update(release.inputs(colour="green"))
    assert outputs["status"]["status"] == "deployed"
    assert settings(api_server, release.name) == {"colour": "green", "note": ""}


def interrupted(release: Release, step: Callable[[dict[str, Any]], Any], status: str) -> None:
    """Kill helm with -9 while it waits for its hook."""
    thread = threading.Thread(target=lambda: _ignore(step, release.inputs(hang=True)))
    thread.start()
    helm = release.provider._configuration.cluster.helm

    def reached() -> bool:
        found = helm.find("default", release.name)
        return found is not None and found.status == status

    _await(reached)
    pattern = f"helm (install|upgrade) {release.name} "
    answer = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True)
    for process in answer.stdout.split():
        os.kill(int(process), signal.SIGKILL)
    thread.join()


def _ignore(step: Callable[[dict[str, Any]], Any], inputs: dict[str, Any]) -> None:
    try:
        step(inputs)
    except Failure:
        return
    raise AssertionError("a killed helm is a failure")


def test_killed_install_is_repaired(release: Release, api_server: ApiServer) -> None:
    interrupted(release, release.create, "pending-install")
    outputs = release.create(release.inputs(colour="green"))
    assert outputs["status"]["status"] == "deployed"
    assert settings(api_server, release.name) == {"colour": "green", "note": ""}


def test_killed_upgrade_is_repaired(release: Release, api_server: ApiServer) -> None:
    release.create(release.inputs(colour="red"))
    interrupted(release, release.update, "pending-upgrade")
    assert settings(api_server, release.name) == {"colour": "red", "note": ""}
    outputs = release.update(release.inputs(colour="green"))
    assert outputs["status"] == {
        "appVersion": "9",
        "chart": "tiny",
        "name": release.name,
        "namespace": "default",
        "revision": 2,
        "status": "deployed",
        "version": "1.2.3",
    }


def test_helm_dies_with_the_plugin(api_server: ApiServer, chart: Path) -> None:
    program = f"""
from pathlib import Path
from tests.unit.plugins.test_kubernetes_release import ApiServer, Release
server = ApiServer(Path({str(api_server.folder)!r}))
release = Release(server, Path({str(chart)!r}), "orphan")
release.create(release.inputs(hang=True))
"""
    plugin = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    running = ["pgrep", "-f", "helm install orphan "]
    try:
        _await(lambda: subprocess.run(running, capture_output=True).returncode == 0)
    finally:
        plugin.kill()
        plugin.wait()
    _await(lambda: subprocess.run(running, capture_output=True).returncode == 1)
    Release(api_server, chart, "orphan").delete({"skipAwait": True})


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_release_of_a_lost_state(release: Release, chart: Path, api_server: ApiServer) -> None:
    release.create(release.inputs(colour="red"))
    # The same chart: taken over.
    outputs = release.create(release.inputs(colour="blue"))
    assert outputs["status"]["revision"] == 2
    # Another chart: somebody else's.
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: other\nversion: 1.0.0\n")
    stranger = Release(api_server, chart, release.name)
    with pytest.raises(Failure, match=r"exists already with chart tiny.*helm uninstall"):
        stranger.create(stranger.inputs())


def test_release_removed_behind_our_back(release: Release, api_server: ApiServer) -> None:
    inputs = release.inputs(colour="red")
    outputs = release.create(inputs)
    read = release.request(inputs, identifier=f"default/{release.name}", old_outputs=outputs)
    state = release.provider.handler(RELEASE).read(read)
    assert state is not None and state.inputs == inputs and state.outputs == outputs
    release.delete(inputs)
    assert release.provider.handler(RELEASE).read(read) is None
    assert release.update(inputs)["status"]["revision"] == 1
    assert settings(api_server, release.name) == {"colour": "red", "note": ""}

    imported = release.provider.handler(RELEASE).read(
        release.request(identifier=f"default/{release.name}")
    )
    assert imported is not None
    assert imported.inputs["chart"] == "tiny" and imported.inputs["values"] == {"colour": "red"}


def test_nothing_secret_on_helms_command_line(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, folder = tmp_path / "record", tmp_path / "bin"
    folder.mkdir()
    spy = folder / "helm"
    spy.write_text(
        f'#!/bin/sh\nenv >>{record}\necho "$@" >>{record}\n'
        f'[ ! -e "$KUBECONFIG" ] || stat -Lc "kubeconfig=%a %n" "$KUBECONFIG" >>{record}\n'
        f'exec {tool("helm")} "$@"\n'
    )
    spy.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    release.create(release.inputs(note=SECRET))
    text = record.read_text()
    assert f"install {release.name}" in text
    assert "kubeconfig=600 /proc/self/fd/" in text
    assert SECRET not in text
    assert not list(Path(tempfile.gettempdir()).glob("helm-*"))

    record.unlink()
    options = {"repo": f"http://127.0.0.1:{free_port()}", "username": "u", "password": SECRET}
    given = {"chart": "cilium", "version": "1", "repositoryOpts": options}
    handler = release.provider.handler(RELEASE)
    checked = handler.check(release.request(given))
    with pytest.raises(Failure, match=r"(?s)repository http://127.*connection refused"):
        handler.create(release.request(checked))
    assert SECRET not in record.read_text()


@pytest.mark.parametrize("status", ["deployed", "failed", "superseded"])
def test_nothing_to_repair(status: str) -> None:
    found = Found("n", "ns", 1, status, "tiny", "1", "", {}, "", "")
    assert helm_.repair(found, "tiny", ours=True) == helm_.Repair()


def test_resource_names() -> None:
    manifest = """
---
# Source: x
apiVersion: apps/v1
kind: Deployment
metadata: {name: b, namespace: ns}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: a, namespace: ns}
---
---
apiVersion: v1
kind: Namespace
metadata: {name: ns}
"""
    assert helm_.resource_names(manifest) == {
        "Deployment.apps/apps/v1": ["ns/a", "ns/b"],
        "Namespace/v1": ["ns"],
    }
