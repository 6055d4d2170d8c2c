"""How this program reaches the cluster's API server, and what it says of the objects that it makes."""

from __future__ import annotations

from typing import Any

import pulumi_kubernetes as kubernetes

from components.cilium.component import kubeconfig
from stack import models

# An API server that takes connections and says nothing would be waited for without an end. The
# longest that a webhook may take is 30 s.
ANSWER_SECONDS = 40


def provider(name: str, cluster: models.Cluster) -> kubernetes.Provider:
    """Pulumi's door to the API server of `cluster`."""
    settings = kubernetes.KubeClientSettingsArgs(timeout=ANSWER_SECONDS)
    return kubernetes.Provider(
        name, kubeconfig=kubeconfig(cluster), kube_client_settings=settings
    )


def owned(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata of an object that is ours alone: what somebody else wrote into it gives way.

    Without it server-side apply refuses every field that `kubectl edit` has touched.
    """
    annotations = {**metadata.get("annotations", {}), "pulumi.com/patchForce": "true"}
    return {**metadata, "annotations": annotations}
