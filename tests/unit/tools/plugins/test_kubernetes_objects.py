"""Tokens, names, differences and drift, without a cluster."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.plugins import kubernetes_objects as objects

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("kubernetes:core/v1:ConfigMap", ("v1", "ConfigMap")),
        ("kubernetes:apps/v1:Deployment", ("apps/v1", "Deployment")),
        ("kubernetes:cilium.io/v2:CiliumNode", ("cilium.io/v2", "CiliumNode")),
        (
            "kubernetes:rbac.authorization.k8s.io/v1:Role",
            ("rbac.authorization.k8s.io/v1", "Role"),
        ),
    ],
)
def test_token(token: str, expected: tuple[str, str]) -> None:
    assert objects.parse_token(token) == expected


@pytest.mark.parametrize(
    "token", ["kubernetes:helm.sh/v3:Chart", "kubernetes:kustomize/v2:Directory", "tls:index:Key"]
)
def test_token_of_something_else_is_refused(token: str) -> None:
    with pytest.raises(objects.TokenError, match=token):
        objects.parse_token(token)


def _paths(old: Any, new: Any) -> dict[str, str]:
    return {each.property_path: each.kind.value for each in objects.differences(old, new)}


def test_differences_name_the_leaves() -> None:
    old = {"a": 1, "b": {"x.y/z": "1", "gone": 2}, "l": [1, {"k": 1}], "n": None}
    new = {"a": 1.0, "b": {"x.y/z": "2"}, "l": [1, {"k": 2}, 3], "m": None, "new": False}
    assert _paths(old, new) == {
        'b["x.y/z"]': "update",
        "b.gone": "delete",
        "l[1].k": "update",
        "l[2]": "add",
        "new": "add",
    }


def test_true_is_not_one() -> None:
    assert _paths({"a": True}, {"a": 1}) == {"a": "update"}


@given(JSON)
def test_nothing_differs_from_itself(value: Any) -> None:
    assert objects.differences(value, value) == []


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4), JSON)
def test_every_difference_is_real(old: dict[str, Any], other: Any) -> None:
    new = {**old, "added": other}
    expected = ["added"] if other is not None else []
    found = [each.path[0] for each in objects.differences({**old, "added": None}, new)]
    assert found == expected


def _replaces(kind: str, api_version: str, path: objects.Path) -> bool:
    fields = objects.replacing_fields({"apiVersion": api_version, "kind": kind})
    return objects.must_replace(objects.Difference(path, objects.Kind.UPDATE), fields)


@pytest.mark.parametrize(
    ("kind", "api_version", "path", "expected"),
    [
        ("ConfigMap", "v1", ("data", "key"), True),
        ("ConfigMap", "v1", ("metadata", "labels", "a"), False),
        ("ConfigMap", "v1", ("metadata", "name"), True),
        ("Secret", "v1", ("stringData",), True),
        ("Deployment", "apps/v1", ("spec", "replicas"), False),
        ("Deployment", "apps/v1", ("spec", "selector", "matchLabels", "a"), True),
        ("Deployment", "apps/v1", ("spec",), True),
        ("Service", "v1", ("spec", "ports", 0, "port"), False),
        ("Lamp", "test.example/v1", ("spec", "watts"), False),
        ("Lamp", "test.example/v1", ("metadata", "namespace"), True),
        ("Lamp", "test.example/v1", ("data",), False),
    ],
)
def test_what_replaces(kind: str, api_version: str, path: objects.Path, expected: bool) -> None:
    assert _replaces(kind, api_version, path) is expected


def test_mutable_config_map_updates_unless_immutable() -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap"}
    assert "data" not in objects.replacing_fields(body, config_map_mutable=True)
    body["immutable"] = True  # type: ignore[assignment]
    assert "data" in objects.replacing_fields(body, config_map_mutable=True)


def test_drift_ignores_how_the_server_writes_things_down() -> None:
    inputs = {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"cpu": "1000m", "unknown": 1}}
    live = {"kind": "Pod", "metadata": {"name": "p", "uid": "u"}, "spec": {"cpu": "1", "x": []}}
    assert objects.drifted_inputs(inputs, live, live) == inputs


def test_drift_takes_the_live_value() -> None:
    inputs = {"metadata": {"name": "p"}, "spec": {"a": 1, "b": 2, "list": [{"x": 1}]}}
    live = {"metadata": {"name": "p"}, "spec": {"a": 5, "list": [{"x": 2, "default": True}]}}
    applied = {"metadata": {"name": "p"}, "spec": {"a": 1, "b": 2, "list": [{"x": 1}]}}
    assert objects.drifted_inputs(inputs, live, applied) == {
        "metadata": {"name": "p"},
        "spec": {"a": 5, "list": [{"x": 2, "default": True}]},
    }


def test_drift_of_string_data() -> None:
    inputs = {"kind": "Secret", "metadata": {}, "stringData": {"a": "x", "b": "y"}}
    live = {"kind": "Secret", "metadata": {}, "data": {"a": "eg=="}}
    applied = {"kind": "Secret", "metadata": {}, "data": {"a": "eA==", "b": "eQ=="}}
    assert objects.drifted_inputs(inputs, live, applied)["stringData"] == {"a": "z"}


def test_field_manager_follows_the_urn() -> None:
    first = objects.field_manager({}, "urn:a")
    assert first == objects.field_manager({}, "urn:a") != objects.field_manager({}, "urn:b")
    named = {"metadata": {"annotations": {objects.FIELD_MANAGER: "mine"}}}
    assert objects.field_manager(named, "urn:a") == "mine"
