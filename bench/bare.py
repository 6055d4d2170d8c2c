"""The other side of the engine's rows: resources written straight down, nothing computed.

Copied as __main__.py beside a resources.json of the same resources as autojoin's own program has,
with the same parents, and the dependencies that a person would write down for them too.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pulumi
import pulumi_command as command
import pulumi_kubernetes as kubernetes
import pulumi_tls as tls

CLASSES: dict[str, Any] = {
    "command:local:Command": command.local.Command,
    "command:remote:Command": command.remote.Command,
    "kubernetes:helm.sh/v3:Release": kubernetes.helm.v3.Release,
    "kubernetes:rbac.authorization.k8s.io/v1:ClusterRoleBinding": (
        kubernetes.rbac.v1.ClusterRoleBinding
    ),
    "tls:index/certRequest:CertRequest": tls.CertRequest,
    "tls:index/privateKey:PrivateKey": tls.PrivateKey,
}
# Inputs that are objects of the SDK's, with its own spelling of their keys.
OBJECTS = {"connection", "subject"}
providers: dict[str, pulumi.ProviderResource] = {}
# By URN, as in the state that they were taken from.
declared: dict[str, pulumi.Resource] = {}


def value(each: Any) -> Any:
    """A stored input: `{"secret": x}` becomes a secret."""
    if isinstance(each, dict) and set(each) == {"secret"}:
        return pulumi.Output.secret(each["secret"])
    if isinstance(each, dict):
        return {name: value(item) for name, item in each.items()}
    if isinstance(each, list):
        return [value(item) for item in each]
    return each


def snake(name: str) -> str:
    return re.sub("(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def spelled(inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        snake(name): {snake(key): item for key, item in each.items()}
        if name in OBJECTS and isinstance(each, dict)
        else each
        for name, each in inputs.items()
    }


def declare(each: dict[str, Any]) -> pulumi.Resource:
    kind, name, inputs = each["type"], each["name"], value(each["inputs"])
    parent = declared.get(each["parent"])
    if kind.startswith("pulumi:providers:"):
        package = kind.rpartition(":")[2]
        providers[package] = pulumi.ProviderResource(package, name, inputs)
        return providers[package]
    if not each["custom"]:
        component = pulumi.ComponentResource(
            kind, name, None, pulumi.ResourceOptions(parent=parent)
        )
        component.register_outputs({})
        return component
    options = pulumi.ResourceOptions(
        parent=parent,
        depends_on=[declared[urn] for urn in each["dependencies"]],
        provider=providers.get(kind.partition(":")[0]),
    )
    if kind in CLASSES:
        return CLASSES[kind](name, **spelled(inputs), opts=options)  # type: ignore[no-any-return]
    return pulumi.CustomResource(kind, name, inputs, options)


for resource in json.loads(Path("resources.json").read_text()):
    declared[resource["urn"]] = declare(resource)
