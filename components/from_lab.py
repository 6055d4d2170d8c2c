"""From a lab's settings to what the render functions take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.certificate_authority.authority_host import AuthorityHost
from components.cilium.values import CiliumSettings
from components.dns.resources import DnsSettings
from components.join_gate import installation as join_gate
from components.workers.seed import Cluster, Node, Registry
from stack import models
from stack.models import CertificateAuthority, Lab, Worker


def authority_host(
    settings: CertificateAuthority, gate: models.JoinGate | None = None
) -> AuthorityHost:
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
        cfssl=settings.cfssl,
        responder_port=settings.responder_port,
        gate_port=(gate or models.JoinGate()).port,
        also=(settings.also.certificate, settings.also.key) if settings.also else ("", ""),
    )


def gate_url(lab: Lab) -> str:
    """Where nodes reach the join gate."""
    return join_gate.url(authority_host(lab.certificate_authority, lab.join_gate))


def cluster(settings: models.Cluster) -> Cluster:
    """What a node needs to know of its cluster."""
    return Cluster(
        name=settings.name,
        api_server=settings.api_server,
        kubernetes_version=settings.kubernetes_version,
        pod_cidrs=tuple(settings.pod_cidrs),
        service_cidrs=tuple(settings.service_cidrs),
        node_cidrs=tuple(settings.node_cidrs),
        dns_servers=tuple(settings.dns_servers),
        gateways=settings.gateways,
        sandbox_image=settings.sandbox_image,
        packages=settings.packages,
    )


def node(name: str, settings: Worker, identity: str, **decided: Any) -> Node:
    """What a node needs to know of itself; `decided` are the fields that its hardware decides."""
    return Node(
        name=name,
        addresses=settings.addresses,
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
    """What of the lab decides the chart's values; see `cilium_settings`."""
    return cilium_settings(lab.cluster, lab.cilium, lab.bgp is not None, taints(lab), missing)


def taints(lab: Lab) -> tuple[str, ...]:
    """The taints of any worker."""
    return tuple(taint for worker in lab.workers.values() for taint in worker.taints)


def cilium_settings(
    cluster: models.Cluster,
    settings: models.Cilium,
    bgp: bool,
    taints: tuple[str, ...],
    missing: frozenset[str] = frozenset(),
) -> CiliumSettings:
    """What decides the chart's values.

    `missing` names the sections among gatewayApi, serviceMonitors and dashboards whose needs the
    cluster has not: what is on `auto` is off then.
    """
    on = {
        name: mode in ("install", "present") or (mode == "auto" and name not in missing)
        for name, mode in cilium_modes(settings).items()
    }
    return CiliumSettings(
        version=settings.version,
        cluster_name=cluster.name,
        api_host=cluster.api_host,
        api_port=cluster.api_port,
        pod_cidrs=tuple(cluster.pod_cidrs),
        bgp=bgp,
        taints=taints,
        gateway_api=on["gatewayApi"],
        service_monitors=on["serviceMonitors"],
        dashboards=settings.dashboards.namespace if on["dashboards"] else None,
        values=settings.values,
    )


def dns(lab: Lab) -> DnsSettings | None:
    """What of the lab decides the cluster's DNS; None where it is not this program's."""
    if lab.dns.mode != "install" or lab.dns_address is None:
        return None
    return DnsSettings(
        address=lab.dns_address,
        image=f"{lab.dns.image}:v{lab.dns.version}",
        replicas=lab.dns.replicas,
        upstream=tuple(lab.dns.upstream),
        zones=tuple((zone, tuple(servers)) for zone, servers in lab.dns.zones.items()),
        taints=taints(lab),
    )


def registries(settings: Mapping[str, models.Registry]) -> tuple[Registry, ...]:
    """Where nodes get images. OSError or ValueError where a CA can't be read."""
    return tuple(
        Registry(
            name=name,
            mirrors=tuple(registry.mirrors),
            fallback=registry.fallback,
            authority_pem=registry.authority_pem,
            user=registry.user,
            password=registry.password.get_secret_value() if registry.password else None,
        )
        for name, registry in settings.items()
    )


def cilium_modes(settings: models.Cilium) -> dict[str, str]:
    """The mode of each section of autojoin:cilium whose values need something of the cluster."""
    return {
        "gatewayApi": settings.gateway_api.mode,
        "serviceMonitors": settings.service_monitors.mode,
        "dashboards": settings.dashboards.mode,
    }
