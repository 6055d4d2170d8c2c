"""CoreDNS as a cluster has it: the objects, in the order in which they are made.

Names and labels are those of kubeadm's, which much software looks for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from components.cilium.values import tolerations

NAMESPACE = "kube-system"
NAME = "coredns"
SERVICE = "kube-dns"
DOMAIN = "cluster.local"
LABELS = {"k8s-app": "kube-dns"}
HEALTH_PORT = 8080
READY_PORT = 8181
METRICS_PORT = 9153
Resource = dict[str, Any]


@dataclass(frozen=True)
class DnsSettings:
    """What of the lab decides the cluster's DNS.

    `upstream` are the resolvers of all other names; without any the node's own are asked. `zones`
    are further zones with their own resolvers; `taints` are those of any worker.
    """

    address: str
    image: str
    replicas: int
    upstream: tuple[str, ...] = ()
    zones: tuple[tuple[str, tuple[str, ...]], ...] = ()
    taints: tuple[str, ...] = ()


def resources(settings: DnsSettings) -> list[Resource]:
    """Every object."""
    configuration = corefile(settings)
    account = {"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}
    role = f"system:{NAME}"
    return [
        _object("v1", "ServiceAccount", NAME),
        _cluster("ClusterRole", role, rules=_RULES),
        _cluster(
            "ClusterRoleBinding",
            role,
            roleRef={"apiGroup": _RBAC, "kind": "ClusterRole", "name": role},
            subjects=[account],
        ),
        _object("v1", "ConfigMap", NAME, data={"Corefile": configuration}),
        _object("policy/v1", "PodDisruptionBudget", NAME, spec=_budget(settings.replicas)),
        _object("apps/v1", "Deployment", NAME, spec=_deployment(settings, configuration)),
        _object("v1", "Service", SERVICE, spec=_service(settings)),
    ]


_RBAC = "rbac.authorization.k8s.io"
_RULES = [
    {
        "apiGroups": [""],
        "resources": ["endpoints", "services", "pods", "namespaces"],
        "verbs": ["list", "watch"],
    },
    {
        "apiGroups": ["discovery.k8s.io"],
        "resources": ["endpointslices"],
        "verbs": ["list", "watch"],
    },
]
_SERVICE_LABELS = {"kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}


def _budget(replicas: int) -> dict[str, Any]:
    """Half of them may be away: of two nodes each has as many, and may be drained."""
    return {"maxUnavailable": max(1, replicas // 2), "selector": {"matchLabels": LABELS}}


def _object(version: str, kind: str, name: str, **rest: Any) -> Resource:
    metadata: dict[str, Any] = {"name": name, "namespace": NAMESPACE, "labels": LABELS}
    if kind in ("Deployment", "Service"):
        # It is ready once there are nodes, which may be long after `pulumi up`.
        metadata["annotations"] = {"pulumi.com/skipAwait": "true"}
    if kind == "Service":
        metadata["labels"] = LABELS | _SERVICE_LABELS
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}


def _cluster(kind: str, name: str, **rest: Any) -> Resource:
    return {"apiVersion": f"{_RBAC}/v1", "kind": kind, "metadata": {"name": name}, **rest}


def corefile(settings: DnsSettings) -> str:
    """CoreDNS's configuration (coredns.io/manual)."""
    upstream = " ".join(settings.upstream) or "/etc/resolv.conf"
    found = f"""\
.:53 {{
    errors
    health {{
        lameduck 5s
    }}
    ready
    kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }}
    prometheus :{METRICS_PORT}
    forward . {upstream} {{
        max_concurrent 1000
    }}
    cache 30 {{
        disable success {DOMAIN}
        disable denial {DOMAIN}
    }}
    loop
    reload
    loadbalance
}}
"""
    for zone, servers in settings.zones:
        found += f"""\
{zone}:53 {{
    errors
    cache 30
    forward . {" ".join(servers)} {{
        max_concurrent 1000
    }}
}}
"""
    return found


def _deployment(settings: DnsSettings, configuration: str) -> dict[str, Any]:
    # `reload` takes up a changed Corefile within a minute; another pod template does so at once.
    digest = hashlib.sha256(configuration.encode()).hexdigest()[:16]
    return {
        "replicas": settings.replicas,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
        "selector": {"matchLabels": LABELS},
        "template": {
            "metadata": {"labels": LABELS, "annotations": {"autojoin/corefile": digest}},
            "spec": {
                "priorityClassName": "system-cluster-critical",
                "serviceAccountName": NAME,
                "dnsPolicy": "Default",
                "nodeSelector": {"kubernetes.io/os": "linux"},
                "tolerations": [
                    {"key": "CriticalAddonsOnly", "operator": "Exists"},
                    {
                        "key": "node-role.kubernetes.io/control-plane",
                        "operator": "Exists",
                        "effect": "NoSchedule",
                    },
                    *tolerations(settings.taints),
                ],
                # Else all land on the node that is ready first, and their names go with it.
                "topologySpreadConstraints": [
                    {
                        "maxSkew": 1,
                        "topologyKey": "kubernetes.io/hostname",
                        "whenUnsatisfiable": "DoNotSchedule",
                        "labelSelector": {"matchLabels": LABELS},
                    }
                ],
                # Whoever it runs as may listen on port 53, with no capability.
                "securityContext": {
                    "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]
                },
                "containers": [_container(settings)],
                "volumes": [{"name": "config", "configMap": {"name": NAME}}],
            },
        },
    }


def _container(settings: DnsSettings) -> dict[str, Any]:
    return {
        "name": NAME,
        "image": settings.image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "resources": {"limits": {"memory": "170Mi"}, "requests": {"cpu": "100m", "memory": "70Mi"}},
        "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
        ],
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
        "livenessProbe": {
            "httpGet": {"path": "/health", "port": HEALTH_PORT},
            "initialDelaySeconds": 60,
            "timeoutSeconds": 5,
            "failureThreshold": 5,
        },
        "readinessProbe": {"httpGet": {"path": "/ready", "port": READY_PORT}, "periodSeconds": 2},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }


def _service(settings: DnsSettings) -> dict[str, Any]:
    return {
        "clusterIP": settings.address,
        "selector": LABELS,
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            {
                "name": "metrics",
                "port": METRICS_PORT,
                "protocol": "TCP",
                "targetPort": METRICS_PORT,
            },
        ],
    }
