"""Leave for nodes to renew their own client certificates with the API server."""

from __future__ import annotations

import pulumi
import pulumi_kubernetes as kubernetes

from components.objects import owned

# What kube-controller-manager asks about before it approves a node's request for its own name; the
# role is in every cluster, its binding only where kubeadm made the control plane.
_ROLE = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"
_NAME = "autojoin:node-client-rotation"


def allow_rotation(
    name: str, provider: kubernetes.Provider
) -> kubernetes.rbac.v1.ClusterRoleBinding:
    """Every node may have its own certificate renewed, and no other one's."""
    return kubernetes.rbac.v1.ClusterRoleBinding(
        name,
        metadata=owned({"name": _NAME}),
        role_ref={"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": _ROLE},
        subjects=[
            {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}
        ],
        opts=pulumi.ResourceOptions(provider=provider),
    )
