"""The handlers on a real API server, without an engine."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from tests.unit.tools.plugins.kubernetes_server import ApiServer, free_port
from tools.plugins import kubernetes_client, kubernetes_object
from tools.plugins.base import CheckFailures, Failure, InitializationFailed, Request
from tools.plugins.kubernetes import KubernetesProvider
from tools.plugins.values import UNKNOWN

BACKGROUND = {"pulumi.com/deletionPropagationPolicy": "background"}


def provider_for(api_server: ApiServer, **settings: Any) -> KubernetesProvider:
    provider = KubernetesProvider()
    provider.configure({"kubeconfig": str(api_server.kubeconfig), **settings})
    return provider


def asked(token: str, name: str, inputs: Any = None, **fields: Any) -> Request:
    urn = f"urn:pulumi:s::p::{token}::{name}"
    return Request(urn=urn, type=token, name=name, inputs=inputs or {}, **fields)


CONFIG_MAP = "kubernetes:core/v1:ConfigMap"


def config_map(name: str, **data: str) -> dict[str, Any]:
    about = {"name": name, "namespace": "default", "annotations": dict(BACKGROUND)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": data}


def test_check_names_and_places(api_server: ApiServer) -> None:
    handler = provider_for(api_server, namespace="elsewhere").handler(CONFIG_MAP)
    request = asked(CONFIG_MAP, "settings", {"data": {"a": "b"}}, random_seed=b"seed")
    checked = handler.check(request)
    assert checked["metadata"]["namespace"] == "elsewhere"
    assert checked["metadata"]["name"].startswith("settings-")
    assert handler.check(request) == checked, "preview and update must agree on the name"

    later = asked(CONFIG_MAP, "settings", {"data": {"a": "c"}}, random_seed=b"other")
    later.old_inputs = checked
    assert handler.check(later)["metadata"] == checked["metadata"]

    with pytest.raises(CheckFailures, match="generateName"):
        handler.check(asked(CONFIG_MAP, "x", {"metadata": {"generateName": "x-"}}))
    assert handler.check(asked(CONFIG_MAP, "x", {"metadata": UNKNOWN}))["metadata"] is UNKNOWN

    token = "kubernetes:core/v1:Namespace"
    assert "namespace" not in handler.check(asked(token, "n"))["metadata"]


def test_existing_object_is_refused_unless_it_is_ours(api_server: ApiServer) -> None:
    provider = provider_for(api_server)
    handler = provider.handler(CONFIG_MAP)
    inputs = config_map("taken", a="1")
    created = handler.create(asked(CONFIG_MAP, "first", inputs))
    assert created.identifier == "default/taken"

    for preview in (True, False):
        with pytest.raises(Failure, match=r"default/taken.*already exists.*upsertExisting"):
            handler.create(asked(CONFIG_MAP, "second", inputs, preview=preview))

    # The same URN: an interrupted run made it, and its state is lost.
    again = handler.create(asked(CONFIG_MAP, "first", config_map("taken", a="2")))
    assert again.outputs["data"] == {"a": "2"}

    adopting = provider_for(api_server, upsertExistingObjects="true", enablePatchForce="true")
    adopted = adopting.handler(CONFIG_MAP).create(asked(CONFIG_MAP, "second", inputs))
    assert adopted.outputs["data"] == {"a": "1"}
    request = asked(CONFIG_MAP, "second", identifier="default/taken", old_inputs=inputs)
    handler.delete(request)
    handler.delete(request)
    assert api_server.get("v1", "ConfigMap", "default", "taken") is None


def test_update_drops_fields_that_the_program_dropped(api_server: ApiServer) -> None:
    handler = provider_for(api_server).handler(CONFIG_MAP)
    inputs = config_map("labelled")
    inputs["metadata"]["labels"] = {"old": "1", "kept": "1"}
    created = handler.create(asked(CONFIG_MAP, "labelled", inputs))
    api_server.merge(
        "v1", "ConfigMap", "default", "labelled", {"metadata": {"labels": {"foreign": "1"}}}
    )
    news = config_map("labelled")
    news["metadata"]["labels"] = {"kept": "1"}
    request = asked(
        CONFIG_MAP, "labelled", news, identifier=created.identifier, old_inputs=inputs,
        old_outputs=created.outputs,
    )  # fmt: skip
    outputs = handler.update(request)
    assert outputs["metadata"]["labels"] == {"kept": "1", "foreign": "1"}

    # Somebody else's label is no drift.
    state = handler.read(
        asked(CONFIG_MAP, "labelled", news, identifier="default/labelled", old_outputs=outputs)
    )
    assert state is not None and state.inputs == news


def test_import(api_server: ApiServer) -> None:
    handler = provider_for(api_server).handler(CONFIG_MAP)
    handler.create(asked(CONFIG_MAP, "imported", config_map("imported", a="1")))
    state = handler.read(asked(CONFIG_MAP, "other", identifier="default/imported"))
    assert state is not None
    assert state.inputs == config_map("imported", a="1")
    assert handler.read(asked(CONFIG_MAP, "other", identifier="default/absent")) is None


def test_missing_kind_and_namespace(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_object, "MISSING_SECONDS", 0.5)
    provider = provider_for(api_server)
    token = "kubernetes:no.example/v1:Thing"
    inputs = {"apiVersion": "no.example/v1", "kind": "Thing", "metadata": {"name": "t"}}
    handler = provider.handler(token)
    assert handler.create(asked(token, "t", inputs, preview=True)).outputs == inputs
    with pytest.raises(Failure, match=r"no matches for kind 'Thing' in version 'no.example/v1'"):
        handler.create(asked(token, "t", inputs))
    known = {"identifier": "t", "old_inputs": inputs, "old_outputs": inputs}
    assert handler.read(asked(token, "t", inputs, **{**known, "old_inputs": {}})) is None
    handler.delete(asked(token, "t", **known))

    away = config_map("away")
    away["metadata"]["namespace"] = "absent"
    assert handler.create(asked(CONFIG_MAP, "a", away, preview=True)).outputs == away
    with pytest.raises(Failure, match='namespaces "absent" not found'):
        handler.create(asked(CONFIG_MAP, "a", away))


def test_kind_that_appears_while_we_wait(api_server: ApiServer) -> None:
    provider = provider_for(api_server)
    token = "kubernetes:late.example/v1:Late"
    inputs = {"apiVersion": "late.example/v1", "kind": "Late", "metadata": {"name": "late"}}
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "lates.late.example", "annotations": dict(BACKGROUND)},
        "spec": {
            "group": "late.example",
            "names": {"kind": "Late", "plural": "lates"},
            "scope": "Cluster",
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
        },
    }
    about = "kubernetes:apiextensions.k8s.io/v1:CustomResourceDefinition"
    timer = threading.Timer(
        1.0, lambda: provider.handler(about).create(asked(about, "d", definition))
    )
    timer.start()
    created = provider.handler(token).create(asked(token, "late", inputs))
    timer.join()
    assert created.identifier == "late"


def test_object_that_does_not_get_ready_is_kept(api_server: ApiServer) -> None:
    token = "kubernetes:core/v1:Service"
    handler = provider_for(api_server).handler(token)
    inputs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "front",
            "namespace": "default",
            "annotations": {**BACKGROUND, "pulumi.com/timeoutSeconds": "1"},
        },
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
    }
    with pytest.raises(InitializationFailed, match="no load balancer address") as failed:
        handler.create(asked(token, "front", inputs))
    assert failed.value.identifier == "default/front"
    assert failed.value.outputs["spec"]["type"] == "LoadBalancer"

    inputs["metadata"]["annotations"]["pulumi.com/skipAwait"] = "true"  # type: ignore[index]
    outputs = handler.update(
        asked(token, "front", inputs, identifier="default/front", old_outputs={})
    )
    assert outputs["kind"] == "Service"
    handler.delete(asked(token, "front", identifier="default/front", old_inputs=inputs))


def test_wait_for_a_condition(api_server: ApiServer) -> None:
    handler = provider_for(api_server).handler(CONFIG_MAP)
    inputs = config_map("patient")
    about = inputs["metadata"]["annotations"]
    about |= {"pulumi.com/timeoutSeconds": "1", "pulumi.com/waitFor": "condition=Ready"}
    with pytest.raises(InitializationFailed, match="condition Ready is not True"):
        handler.create(asked(CONFIG_MAP, "patient", inputs))
    about["pulumi.com/waitFor"] = '["jsonpath={.a}=b"]'
    with pytest.raises(CheckFailures, match="jsonpath"):
        handler.check(asked(CONFIG_MAP, "patient", inputs))


def test_preview_of_a_replacement_that_needs_the_old_one_gone(api_server: ApiServer) -> None:
    handler = provider_for(api_server).handler(CONFIG_MAP)
    inputs = {**config_map("frozen", a="1"), "immutable": True}
    handler.create(asked(CONFIG_MAP, "frozen", inputs))
    changed = {**config_map("frozen", a="2"), "immutable": True}
    assert handler.create(asked(CONFIG_MAP, "frozen", changed, preview=True)).outputs == changed


def test_foreground_is_the_default_and_waits(api_server: ApiServer) -> None:
    handler = provider_for(api_server).handler(CONFIG_MAP)
    inputs = config_map("foreground")
    inputs["metadata"]["annotations"] = {"pulumi.com/timeoutSeconds": "1"}
    handler.create(asked(CONFIG_MAP, "foreground", inputs))
    request = asked(CONFIG_MAP, "f", identifier="default/foreground", old_inputs=inputs)
    # No garbage collector runs here, so that the finalizer stays.
    with pytest.raises(Failure, match="finalizers: foregroundDeletion"):
        handler.delete(request)
    inputs["metadata"]["annotations"] = {"pulumi.com/skipAwait": "true"}
    handler.delete(request)
    nothing: dict[str, Any] = {"metadata": {"finalizers": []}}
    api_server.merge("v1", "ConfigMap", "default", "foreground", nothing)
    assert api_server.get("v1", "ConfigMap", "default", "foreground") is None


def test_undeletable_object_is_given_back(api_server: ApiServer) -> None:
    token = "kubernetes:core/v1:Namespace"
    provider = provider_for(api_server, upsertExistingObjects="true")
    inputs = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "kube-system", "labels": {"ours": "1"}},
    }
    handler = provider.handler(token)
    created = handler.create(asked(token, "ns", inputs))
    request = asked(
        token, "ns", identifier="kube-system", old_inputs=inputs, old_outputs=created.outputs
    )
    handler.delete(request)
    live = api_server.get("v1", "Namespace", None, "kube-system")
    assert live is not None and "ours" not in live["metadata"]["labels"]


def test_unreachable_cluster(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes_client, "RETRIES", 1)
    nobody = json.dumps(api_server.kubeconfig_document(free_port()))
    provider = KubernetesProvider()
    provider.configure({"kubeconfig": nobody})
    handler = provider.handler(CONFIG_MAP)
    inputs = config_map("x", a="1")
    assert handler.create(asked(CONFIG_MAP, "x", inputs, preview=True)).outputs == inputs
    old = {"identifier": "default/x", "old_outputs": inputs}
    changed = config_map("x", a="2")
    preview = asked(CONFIG_MAP, "x", changed, preview=True, old_inputs=inputs, **old)
    assert handler.diff(preview).replaces == ["data.a"]
    assert handler.update(preview) == changed
    with pytest.raises(Failure, match=r"unreachable.*connection refused"):
        handler.read(asked(CONFIG_MAP, "x", inputs, **old))

    monkeypatch.setenv("PULUMI_K8S_DELETE_UNREACHABLE", "true")
    provider.configure({"kubeconfig": nobody})
    assert handler.read(asked(CONFIG_MAP, "x", inputs, **old)) is None
    handler.delete(asked(CONFIG_MAP, "x", old_inputs=inputs, **old))
    provider.configure({"kubeconfig": nobody, "skipUpdateUnreachable": "true"})
    assert handler.update(asked(CONFIG_MAP, "x", changed, **old)) == inputs


def test_provider_configuration(api_server: ApiServer) -> None:
    provider = KubernetesProvider()
    token = "pulumi:providers:kubernetes"
    with pytest.raises(CheckFailures, match="client-side apply"):
        provider.check_configuration(asked(token, "p", {"enableServerSideApply": "false"}))
    path = {"kubeconfig": str(api_server.kubeconfig)}
    contents = {"kubeconfig": json.dumps(api_server.kubeconfig_document())}
    other = {"kubeconfig": json.dumps(api_server.kubeconfig_document(free_port()))}

    def replaces(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
        request = asked(token, "p", new, old_inputs=old)
        return provider.diff_configuration(request).replaces

    assert replaces(path, contents) == []
    assert replaces(path, other) == ["kubeconfig"]
    assert replaces(path, {"kubeconfig": "/nonexistent"}) == []
    assert replaces(path, {"kubeconfig": UNKNOWN}) == []
    named = {**other, "clusterIdentifier": "c"}
    assert replaces({**path, "clusterIdentifier": "c"}, named) == []
    assert replaces({**path, "clusterIdentifier": "d"}, named) == ["clusterIdentifier"]


def test_invalid_object_names_the_field(api_server: ApiServer) -> None:
    handler = provider_for(api_server).handler(CONFIG_MAP)
    wrong = config_map("wrong")
    wrong["data"] = {"key": 1}
    for preview in (True, False):
        with pytest.raises(Failure, match=r"ConfigMap default/wrong \(v1\).*data.key"):
            handler.create(asked(CONFIG_MAP, "wrong", wrong, preview=preview))


def test_what_is_not_served_is_refused_by_name() -> None:
    provider = KubernetesProvider()
    token = "kubernetes:core/v1:ConfigMapPatch"
    with pytest.raises(Failure, match=f"{token}.*not served"):
        provider.handler(token).check(asked(token, "patch", {"kind": "ConfigMap"}))
    with pytest.raises(Failure, match=r"helm.sh/v3:Chart is not served"):
        provider.handler("kubernetes:helm.sh/v3:Chart")
    with pytest.raises(Failure, match=r"kubernetes:yaml:decode.*serves no such function"):
        provider.invoke("kubernetes:yaml:decode", {})
