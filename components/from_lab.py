"""From a lab's settings to what the render functions take."""

from __future__ import annotations

from typing import Any

from components.certificate_authority.authority_host import AuthorityHost
from components.cilium.values import CiliumSettings
from components.join_gate import installation as join_gate
from components.workers.seed import Cluster, Node
from stack.models import CertificateAuthority, Lab, Worker


def authority_host(settings: CertificateAuthority) -> AuthorityHost:
    """The CA host, as its installers need to know it."""
    return AuthorityHost(
        platform=settings.platform,
        address=settings.host.address,
        source=settings.source,
        certificate=settings.certificate or "",
        key=settings.key or "",
        subject=settings.subject.model_dump(by_alias=True, exclude_none=True),
        node_certificate_hours=settings.node_certificate_hours,
        setup=settings.setup,
    )


def gate_url(lab: Lab) -> str:
    """Where nodes reach the join gate."""
    return join_gate.url(authority_host(lab.certificate_authority))


def cluster(lab: Lab) -> Cluster:
    """What a node needs to know of its cluster."""
    settings = lab.cluster
    return Cluster(
        name=settings.name,
        api_server=settings.api_server,
        kubernetes_version=settings.kubernetes_version,
        pod_cidrs=tuple(settings.pod_cidrs),
        service_cidrs=tuple(settings.service_cidrs),
        node_cidrs=tuple(settings.node_cidrs),
        dns_servers=tuple(settings.dns_servers),
        gateway=settings.gateway,
    )


def node(name: str, settings: Worker, identity: str, **decided: Any) -> Node:
    """What a node needs to know of itself; `decided` are the fields that its hardware decides."""
    return Node(
        name=name,
        addresses=(settings.address,),
        generation=settings.generation,
        identity=identity,
        labels=dict(settings.labels),
        taints=tuple(settings.taints),
        node_key=settings.node_key,
        storage_disk=settings.storage_disk,
        extra_user_data=settings.user_data,
        **decided,
    )


def cilium(lab: Lab, missing: frozenset[str] = frozenset()) -> CiliumSettings:
    """What of the lab decides the chart's values.

    `missing` names the sections among gatewayApi, serviceMonitors and dashboards whose needs the
    cluster has not: what is on `auto` is off then.
    """
    modes = cilium_modes(lab)
    on = {
        name: mode in ("install", "present") or (mode == "auto" and name not in missing)
        for name, mode in modes.items()
    }
    return CiliumSettings(
        version=lab.cilium.version,
        cluster_name=lab.cluster.name,
        api_host=lab.cluster.api_host,
        api_port=lab.cluster.api_port,
        pod_cidrs=tuple(lab.cluster.pod_cidrs),
        bgp=lab.bgp is not None,
        taints=tuple(taint for worker in lab.workers.values() for taint in worker.taints),
        gateway_api=on["gatewayApi"],
        service_monitors=on["serviceMonitors"],
        dashboards=lab.cilium.dashboards.namespace if on["dashboards"] else None,
        values=lab.cilium.values,
    )


def cilium_modes(lab: Lab) -> dict[str, str]:
    """The mode of each section of autojoin:cilium whose values need something of the cluster."""
    return {
        "gatewayApi": lab.cilium.gateway_api.mode,
        "serviceMonitors": lab.cilium.service_monitors.mode,
        "dashboards": lab.cilium.dashboards.mode,
    }
