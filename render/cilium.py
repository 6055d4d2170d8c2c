"""Helm values of Cilium, and the CRDs that its operator registers."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CiliumSettings:
    """What of the lab decides the chart's values. `pod_cidrs` of one or two IP families."""

    cluster_name: str
    api_host: str
    api_port: int
    pod_cidrs: tuple[str, ...]
    bgp: bool
    values: dict[str, Any]


def helm_values(settings: CiliumSettings) -> dict[str, Any]:
    """The chart's values: autojoin's defaults, then the user's, merged last.

    Gateway API and ServiceMonitors stay off: each needs CRDs that a fresh cluster lacks, and the
    chart then fails to render or to install.
    """
    ipv4 = [cidr for cidr in settings.pod_cidrs if ":" not in cidr]
    ipv6 = [cidr for cidr in settings.pod_cidrs if ":" in cidr]
    pool: dict[str, Any] = {}
    if ipv4:
        pool["clusterPoolIPv4PodCIDRList"] = ipv4
    if ipv6:
        pool["clusterPoolIPv6PodCIDRList"] = ipv6
    defaults: dict[str, Any] = {
        "bgpControlPlane": {"enabled": settings.bgp},
        "bpf": {"lbExternalClusterIP": True},
        "cluster": {"name": settings.cluster_name},
        "hubble": {
            "enabled": True,
            "metrics": {
                "enableOpenMetrics": True,
                "enabled": ["dns", "drop", "tcp", "icmp", "flow", "httpV2"],
            },
            "relay": {"enabled": True},
            "ui": {"enabled": True},
        },
        "ingressController": {
            "enabled": True,
            "default": True,
            "loadbalancerMode": "dedicated",
        },
        "ipam": {"mode": "cluster-pool", "operator": pool},
        "ipv4": {"enabled": bool(ipv4)},
        "ipv6": {"enabled": bool(ipv6)},
        "k8sServiceHost": settings.api_host,
        "k8sServicePort": settings.api_port,
        "kubeProxyReplacement": True,
        # Workers may be tainted and there is no control-plane node to fall back to.
        "operator": {"replicas": 1, "tolerations": [{"operator": "Exists"}]},
        "rollOutCiliumPods": True,
    }
    return merge(defaults, settings.values)


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
