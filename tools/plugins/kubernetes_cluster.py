"""The configured provider: which cluster, which settings, and what its handlers share."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.plugins import kubernetes_access as access_
from tools.plugins.base import PROCESSES, Failure, Request
from tools.plugins.kubernetes_access import AccessError, ClusterAccess
from tools.plugins.kubernetes_client import Client
from tools.plugins.kubernetes_helm import Helm
from tools.plugins.values import contains_unknown


@dataclass
class Cluster:
    """The configured provider, as its handlers see it. `client` is None where the kubeconfig
    can't be used; `reason` then says why."""

    client: Client | None = None
    helm: Helm = field(default_factory=lambda: Helm(None, {}, PROCESSES.start))
    reason: str | None = "the provider is not configured yet"
    namespace: str = "default"
    helm_driver: str = "secret"
    flags: frozenset[str] = frozenset()

    def unreachable(self) -> str | None:
        """Why the cluster can't be used, or None."""
        return self.reason if self.client is None else self.client.unreachable_reason()

    def lost(self, what: str, request: Request) -> bool:
        """Whether the cluster is gone and the person said to forget what was on it.

        Raises Failure where it is gone and nobody said so.
        """
        reason = self.reason if self.client is None else self.client.confirm_unreachable()
        if reason is None:
            return False
        if "deleteUnreachable" in self.flags:
            request.log(f"the cluster is unreachable, dropped from the state: {reason}", "warning")
            return True
        raise Failure(
            f"{what}: configured Kubernetes cluster is unreachable: {reason}; if the cluster is "
            "gone for good, set PULUMI_K8S_DELETE_UNREACHABLE=true and repeat"
        )

    def need(self, what: str) -> Client:
        """The client, for an operation that can't do without the cluster."""
        if self.client is None:
            raise Failure(f"{what}: the Kubernetes cluster can't be used: {self.reason}")
        return self.client


def flag(value: Any) -> bool:
    """The SDK sends the provider's booleans as JSON text."""
    return value is True or (isinstance(value, str) and value.lower() == "true")


def configured(inputs: Mapping[str, Any]) -> Cluster:
    """What the provider's inputs mean. Never raises: a cluster that can't be used is a state."""
    settings = _settings(inputs.get("helmReleaseSettings"))
    flags = _flags(inputs)
    namespace = inputs.get("namespace")
    if contains_unknown({k: inputs.get(k) for k in ("kubeconfig", "context", "cluster")}):
        return Cluster(
            helm=Helm(None, settings, PROCESSES.start),
            reason="its kubeconfig is not known yet",
            namespace=namespace if isinstance(namespace, str) else "default",
            flags=flags,
        )
    access: ClusterAccess | None = None
    reason = None
    try:
        access = access_of(inputs)
    except AccessError as error:
        reason = str(error)
    given = namespace if isinstance(namespace, str) and namespace else None
    return Cluster(
        client=Client(access) if access else None,
        helm=Helm(access, settings, PROCESSES.start),
        reason=reason,
        namespace=given or (access.namespace if access else "default"),
        helm_driver=str(settings.get("driver") or "secret"),
        flags=flags,
    )


_FLAG_VARIABLES = {
    "deleteUnreachable": "PULUMI_K8S_DELETE_UNREACHABLE",
    "enableConfigMapMutable": "PULUMI_K8S_ENABLE_CONFIGMAP_MUTABLE",
    "enablePatchForce": "PULUMI_K8S_ENABLE_PATCH_FORCE",
    "enableSecretMutable": "PULUMI_K8S_ENABLE_SECRET_MUTABLE",
    "skipUpdateUnreachable": "PULUMI_K8S_SKIP_UPDATE_UNREACHABLE",
    "suppressDeprecationWarnings": "PULUMI_K8S_SUPPRESS_DEPRECATION_WARNINGS",
    "upsertExistingObjects": "PULUMI_K8S_UPSERT_EXISTING_OBJECTS",
}


def _flags(inputs: Mapping[str, Any]) -> frozenset[str]:
    """Settings that are on: by the provider's inputs, else by the environment. A destroy runs no
    program, so that the SDK can't have read the environment for it."""
    given = {name for name in _FLAG_VARIABLES if flag(inputs.get(name))}
    from_environment = {
        name
        for name, variable in _FLAG_VARIABLES.items()
        if inputs.get(name) is None and flag(os.environ.get(variable))
    }
    return frozenset(given | from_environment)


def access_of(inputs: Mapping[str, Any]) -> ClusterAccess:
    """Where the provider's inputs lead. Raises AccessError."""
    return access_.load(inputs.get("kubeconfig"), inputs.get("context"), inputs.get("cluster"))


def _settings(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def unique_suffix(request: Request) -> str:
    """8 hex digits; the same in preview and in the update that follows it."""
    if request.random_seed:
        return hashlib.sha256(request.random_seed + request.urn.encode()).hexdigest()[:8]
    return secrets.token_hex(4)


class Configuration:
    """Holds the cluster for the handlers, as it is only known after they are made."""

    def __init__(self) -> None:
        self.cluster = Cluster()
