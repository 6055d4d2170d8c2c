"""Helm values of Cilium: those of the post that autojoin comes from, under the chart's own keys."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from components.cilium import versions as cilium_versions

# What the chart's operator tolerates since 1.18; before, it tolerated everything, drained nodes
# included. The agent's own taint is listed too, for 1.17.
_OPERATOR_TOLERATES = (
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
    "node.kubernetes.io/not-ready",
    "node.cloudprovider.kubernetes.io/uninitialized",
    "node.cilium.io/agent-not-ready",
)
_WORKLOADS = "workload-name|reserved-identity"
_CONTEXTS = f"sourceContext={_WORKLOADS};destinationContext={_WORKLOADS}"
# Each with its name first; those that the release does not know are left out.
_HUBBLE_METRICS = (
    "dns",
    "drop",
    "tcp",
    "icmp",
    f"flow:{_CONTEXTS}",
    "kafka:labelsContext=source_namespace,source_workload,destination_namespace,"
    f"destination_workload,traffic_direction;{_CONTEXTS}",
    "httpV2:exemplars=true;labelsContext=source_ip,source_namespace,source_workload,destination_ip,"
    f"destination_namespace,destination_workload,traffic_direction;{_CONTEXTS}",
)


@dataclass(frozen=True)
class CiliumSettings:
    """What of the lab decides the chart's values.

    `pod_cidrs` are of one or two IP families; `taints` are those of any worker, each written
    `key=value:Effect` or `key:Effect`. `gateway_api`, `service_monitors` and `dashboards` (their
    namespace) are on only where what they need is there: the chart fails to render or to install
    without it.
    """

    version: str
    cluster_name: str
    api_host: str
    api_port: int
    pod_cidrs: tuple[str, ...]
    bgp: bool
    values: dict[str, Any]
    taints: tuple[str, ...] = ()
    gateway_api: bool = True
    service_monitors: bool = True
    dashboards: str | None = "monitoring"


def helm_values(settings: CiliumSettings) -> dict[str, Any]:
    """The chart's values: autojoin's defaults, then the user's, merged last."""
    return merge(defaults(settings), settings.values)


def defaults(settings: CiliumSettings) -> dict[str, Any]:
    """The values before the user's."""
    found: dict[str, Any] = {
        "bgpControlPlane": {"enabled": settings.bgp},
        "bpf": {"lbExternalClusterIP": True},
        "cluster": {"name": settings.cluster_name},
        "gatewayAPI": {"enabled": settings.gateway_api},
        "hubble": _hubble(settings),
        "ingressController": {
            "enabled": True,
            "default": True,
            "loadbalancerMode": "dedicated",
        },
        **_addresses(settings),
        "k8sServiceHost": settings.api_host,
        "k8sServicePort": settings.api_port,
        "kubeProxyReplacement": True,
        # Pods read their configuration as they start, and CRDs are registered only then.
        "envoy": {"rollOutPods": True},
        "operator": {
            "replicas": 1,
            "rollOutPods": True,
            "prometheus": _monitored(settings),
            "tolerations": _operator_tolerations(settings.taints),
        },
        "prometheus": _monitored(settings),
        "rollOutCiliumPods": True,
    }
    if settings.service_monitors:
        # They are there by now, but not yet where a preview renders the chart.
        found["prometheus"]["serviceMonitor"]["trustCRDsExist"] = True
    if settings.gateway_api:
        # `auto` asks the cluster, which has the CRDs only once they are installed.
        found["gatewayAPI"]["gatewayClass"] = {"create": "true"}
    if settings.taints:
        found["certgen"] = {"tolerations": tolerations(settings.taints)}
    return found


def _addresses(settings: CiliumSettings) -> dict[str, Any]:
    ipv4 = [cidr for cidr in settings.pod_cidrs if ":" not in cidr]
    ipv6 = [cidr for cidr in settings.pod_cidrs if ":" in cidr]
    pool: dict[str, Any] = {}
    if ipv4:
        pool["clusterPoolIPv4PodCIDRList"] = ipv4
    if ipv6:
        pool["clusterPoolIPv6PodCIDRList"] = ipv6
    found: dict[str, Any] = {
        "ipam": {"mode": "cluster-pool", "operator": pool},
        "ipv4": {"enabled": bool(ipv4)},
        "ipv6": {"enabled": bool(ipv6)},
    }
    if not ipv4 and cilium_versions.of(settings.version).ipv6_underlay:
        # The chart's own is IPv4, whatever families are on.
        found["underlayProtocol"] = "ipv6"
    return found


def _hubble(settings: CiliumSettings) -> dict[str, Any]:
    known = cilium_versions.of(settings.version).hubble_metrics
    dashboards: dict[str, Any] = {"enabled": settings.dashboards is not None}
    if settings.dashboards is not None:
        dashboards["namespace"] = settings.dashboards
        dashboards["annotations"] = {"grafana_folder": "Cilium"}
    found: dict[str, Any] = {
        "enabled": True,
        "metrics": {
            "dashboards": dashboards,
            "enableOpenMetrics": True,
            "enabled": [each for each in _HUBBLE_METRICS if each.partition(":")[0] in known],
            "serviceMonitor": {"enabled": settings.service_monitors},
        },
        "relay": {"enabled": True, "rollOutPods": True, "prometheus": _monitored(settings)},
        "ui": {"enabled": True, "rollOutPods": True},
    }
    if settings.taints:
        found["relay"]["tolerations"] = tolerations(settings.taints)
        found["ui"]["tolerations"] = tolerations(settings.taints)
    return found


def _monitored(settings: CiliumSettings) -> dict[str, Any]:
    return {"enabled": True, "serviceMonitor": {"enabled": settings.service_monitors}}


def _operator_tolerations(taints: tuple[str, ...]) -> list[dict[str, str]]:
    """With no control-plane node to fall back to, the operator must run on a tainted worker."""
    own = [{"key": key, "operator": "Exists"} for key in _OPERATOR_TOLERATES]
    return [*own, *tolerations(taints)]


def tolerations(taints: tuple[str, ...]) -> list[dict[str, str]]:
    """What lets a pod run beside `taints`, written as a worker's."""
    found: list[dict[str, str]] = []
    for taint in dict.fromkeys(taints):
        label, _, effect = taint.rpartition(":")
        key, equals, value = label.partition("=")
        match = {"operator": "Equal", "value": value} if equals else {"operator": "Exists"}
        found.append({"key": key, **match, "effect": effect})
    return found


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`under` with `over` merged over it: mappings key by key, anything else replaced."""
    merged = copy.deepcopy(under)
    for name, value in over.items():
        below = merged.get(name)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[name] = merge(below, value)
        else:
            merged[name] = copy.deepcopy(value)
    return merged


def nulls(values: dict[str, Any], path: str = "") -> Iterator[str]:
    """Where nulls stand in `values`, as dotted paths."""
    for name, value in values.items():
        if value is None:
            yield f"{path}{name}"
        elif isinstance(value, dict):
            yield from nulls(value, f"{path}{name}.")
