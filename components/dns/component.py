"""The cluster's DNS."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes

from components.dns import resources as render

_TYPES: dict[str, Any] = {
    "ServiceAccount": kubernetes.core.v1.ServiceAccount,
    "ClusterRole": kubernetes.rbac.v1.ClusterRole,
    "ClusterRoleBinding": kubernetes.rbac.v1.ClusterRoleBinding,
    "ConfigMap": kubernetes.core.v1.ConfigMap,
    "PodDisruptionBudget": kubernetes.policy.v1.PodDisruptionBudget,
    "Deployment": kubernetes.apps.v1.Deployment,
    "Service": kubernetes.core.v1.Service,
}


@dataclass
class DnsArgs:
    """Where it is and what it asks."""

    settings: render.DnsSettings


class Dns(pulumi.ComponentResource):
    """CoreDNS and its Service. Nobody waits for its pods: they start with the first node.

    Its objects are not `owned`: by their names they may be those that a cluster has already, whose
    own fields are then refused and not overwritten.
    """

    def __init__(self, name: str, args: DnsArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("autojoin:index:Dns", name, None, opts)
        for manifest in render.resources(args.settings):
            kind = manifest["kind"]
            arguments = {_snake(key): value for key, value in manifest.items()}
            _TYPES[kind](
                f"{name}-{_snake(kind).replace('_', '-')}",
                opts=pulumi.ResourceOptions(parent=self),
                **{key: it for key, it in arguments.items() if key not in ("kind", "api_version")},
            )
        self.register_outputs({"address": args.settings.address})


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
