"""The kubelet's configuration, credentials and service on a node."""

from __future__ import annotations

import shlex
from typing import Any

from components.workers.seed import Cluster, Node

AUTHORITY = "/etc/autojoin/ca.pem"
# Where the API server's certificate is from another authority: that one, and both of them. Clients
# of the kubelet have theirs from either.
API_SERVER_AUTHORITY = "/etc/autojoin/api-server-ca.pem"
AUTHORITIES = "/etc/autojoin/authorities.pem"
CONFIGURATION = "/etc/kubernetes/kubelet.yaml"
KUBECONFIG = "/etc/kubernetes/kubelet.kubeconfig"
PKI = "/var/lib/kubelet/pki"
# Certificate and key in one file, which each renewal replaces at once. The kubelet takes it up by
# itself: as its client pair within five minutes (client-go), as a server at once (since 1.36 for
# all who ask; join.sh has a look).
CLIENT_PAIR = f"{PKI}/kubelet-client-current.pem"
RUNTIME_ENDPOINT = "unix:///run/containerd/containerd.sock"
HEALTH_PORT = 10248
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def configuration(
    cluster: Cluster, node: Node, overrides: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The KubeletConfiguration; `overrides` is what a hardware type needs instead, merged last."""
    values: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": AUTHORITY},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": RUNTIME_ENDPOINT,
        "failSwapOn": False,
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": HEALTH_PORT,
        # Nodes renew at the join gate, which keeps books.
        "rotateCertificates": False,
        "serverTLSBootstrap": False,
        "tlsCertFile": CLIENT_PAIR,
        "tlsPrivateKeyFile": CLIENT_PAIR,
    }
    if cluster.cluster_dns:
        values["clusterDNS"] = [cluster.cluster_dns]
    if node.taints:
        values["registerWithTaints"] = [taint(text) for text in node.taints]
    return merged(values, overrides or {})


def taint(text: str) -> dict[str, str]:
    """A taint as the API has it, from `key=value:Effect` or `key:Effect`."""
    key_and_value, _, effect = text.rpartition(":")
    key, _, value = key_and_value.partition("=")
    if not key or effect not in EFFECTS:
        raise ValueError(
            f"taint {text!r} is not valid; write key=value:Effect with one of {', '.join(EFFECTS)}"
        )
    return {"key": key, "value": value, "effect": effect}


def kubeconfig(cluster: Cluster, node: Node) -> dict[str, Any]:
    """How the kubelet reaches the API server: by file paths, so that it holds no secret itself."""
    authority = API_SERVER_AUTHORITY if cluster.api_server_authority else AUTHORITY
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": cluster.name,
                "cluster": {"server": cluster.api_server, "certificate-authority": authority},
            }
        ],
        "users": [
            {
                "name": f"system:node:{node.name}",
                "user": {"client-certificate": CLIENT_PAIR, "client-key": CLIENT_PAIR},
            }
        ],
        "contexts": [
            {
                "name": cluster.name,
                "context": {"cluster": cluster.name, "user": f"system:node:{node.name}"},
            }
        ],
        "current-context": cluster.name,
    }


def service(node: Node) -> str:
    """The systemd unit. Started by the join, and by every boot after it."""
    arguments = [
        "/usr/bin/kubelet",
        f"--config={CONFIGURATION}",
        f"--kubeconfig={KUBECONFIG}",
        f"--cert-dir={PKI}",
        f"--hostname-override={node.name}",
        f"--node-ip={','.join(node.addresses)}",
    ]
    if node.labels:
        pairs = (f"{key}={value}" for key, value in sorted(node.labels.items()))
        arguments.append(f"--node-labels={','.join(pairs)}")
    command = " \\\n  ".join(shlex.quote(argument) for argument in arguments)
    return f"""\
[Unit]
Description=Kubernetes kubelet
After=network-online.target containerd.service crio.service
Wants=network-online.target containerd.service
StartLimitIntervalSec=0

[Service]
ExecStart={command}
Restart=always
RestartSec=2

[Install]
WantedBy=multi-user.target
"""


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid on it: dicts merge, anything else is replaced. Neither is changed."""
    result = dict(base)
    for key, value in over.items():
        known = result.get(key)
        both = isinstance(known, dict) and isinstance(value, dict)
        result[key] = merged(known, value) if both else value  # type: ignore[arg-type]
    return result
