"""What differs between the releases of Cilium that are supported: data, and the one look-up.

Read from each release's chart, CRDs and operator; sources stand beside the fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field

GROUP = "cilium.io"
_METRICS = frozenset(
    "dns drop flow flows-to-world http httpV2 icmp kafka policy port-distribution tcp".split()  # noqa: SIM905
)
_GATEWAY_KINDS = {
    "gatewayclasses": "v1",
    "gateways": "v1",
    "httproutes": "v1",
    "grpcroutes": "v1",
    "referencegrants": "v1beta1",
}


@dataclass(frozen=True)
class CiliumVersion:
    """One minor release. Versions of Kubernetes are (major, minor)."""

    minor: str
    # The stored and not deprecated version of the BGP and pool kinds (client/crds).
    api_version: str
    # Against which its makers test it (network/kubernetes/compatibility.rst).
    tested_kubernetes: tuple[tuple[int, int], tuple[int, int]]
    # Metrics that Hubble knows (pkg/hubble/metrics).
    hubble_metrics: frozenset[str]
    # The Gateway API release of its documentation, and the served version of each kind that its
    # operator wants before it starts the controller (operator/pkg/gateway-api).
    gateway_api: str
    gateway_kinds: dict[str, str]
    # Whether nodes may tunnel over IPv6 (pkg/datapath/tunnel).
    ipv6_underlay: bool = True
    # Fields of the BGP kinds that its CRDs lack: the key of the lab's configuration.
    missing_bgp_keys: frozenset[str] = frozenset()
    # Values of the chart that went, and what took their place.
    replaced_values: dict[str, str] = field(default_factory=dict)

    def gateway_definitions(self) -> tuple[str, ...]:
        """The CRDs of the Gateway API that must be there, as NAME/VERSION."""
        group = "gateway.networking.k8s.io"
        return tuple(f"{kind}.{group}/{version}" for kind, version in self.gateway_kinds.items())


SERVICE_MONITOR = "servicemonitors.monitoring.coreos.com/v1"
SERVICE_MONITOR_SOURCE = (
    "https://github.com/prometheus-operator/prometheus-operator/raw/v0.80.1/"
    "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml"
)
_REPLACED_IN_1_18 = {
    "enableCiliumEndpointSlice": "ciliumEndpointSlice.enabled",
    "hubble.export.fileMaxBackups": "hubble.export.static.fileMaxBackups",
    "hubble.export.fileMaxSizeMb": "hubble.export.static.fileMaxSizeMb",
    "hubble.export.fileCompress": "hubble.export.static.fileCompress",
    "externalIPs.enabled": "kubeProxyReplacement",
    "hostPort.enabled": "kubeProxyReplacement",
}
_REPLACED_IN_1_19 = {
    **_REPLACED_IN_1_18,
    "nodePort.enabled": "kubeProxyReplacement",
    "svcSourceRangeCheck": "kubeProxyReplacement",
}
_REPLACED_IN_1_20 = {
    **_REPLACED_IN_1_19,
    "l2podAnnouncements.interface": "l2podAnnouncements.interfacePattern",
    "clustermesh.enableMCSAPISupport": "clustermesh.mcsapi.enabled",
    "encryption.strictMode.enabled": "encryption.strictMode.egress.enabled",
    "encryption.strictMode.cidr": "encryption.strictMode.egress.cidr",
    "encryption.strictMode.allowRemoteNodeIdentities": (
        "encryption.strictMode.egress.allowRemoteNodeIdentities"
    ),
}

VERSIONS = {
    "1.17": CiliumVersion(
        minor="1.17",
        api_version=f"{GROUP}/v2alpha1",
        tested_kubernetes=((1, 29), (1, 32)),
        hubble_metrics=_METRICS,
        gateway_api="v1.2.0",
        gateway_kinds=_GATEWAY_KINDS,
        ipv6_underlay=False,
        missing_bgp_keys=frozenset(
            {"port", "overrides.localAsn", "aggregationLengthIpv4", "aggregationLengthIpv6"}
        ),
    ),
    "1.18": CiliumVersion(
        minor="1.18",
        api_version=f"{GROUP}/v2",
        tested_kubernetes=((1, 30), (1, 33)),
        hubble_metrics=_METRICS,
        gateway_api="v1.2.0",
        gateway_kinds=_GATEWAY_KINDS,
        replaced_values=_REPLACED_IN_1_18,
    ),
    "1.19": CiliumVersion(
        minor="1.19",
        api_version=f"{GROUP}/v2",
        tested_kubernetes=((1, 32), (1, 35)),
        hubble_metrics=_METRICS,
        gateway_api="v1.4.1",
        gateway_kinds=_GATEWAY_KINDS,
        replaced_values=_REPLACED_IN_1_19,
    ),
    "1.20": CiliumVersion(
        minor="1.20",
        api_version=f"{GROUP}/v2",
        tested_kubernetes=((1, 33), (1, 36)),
        hubble_metrics=_METRICS - {"kafka"} | {"sctp"},
        gateway_api="v1.6.1",
        gateway_kinds={
            **_GATEWAY_KINDS,
            "referencegrants": "v1",
            "tlsroutes": "v1",
            "backendtlspolicies": "v1",
        },
        replaced_values=_REPLACED_IN_1_20,
    ),
}
SUPPORTED = ", ".join(VERSIONS)
# Under which one object may be in a state.
API_VERSIONS = frozenset(version.api_version for version in VERSIONS.values())


def gateway_api_source(version: CiliumVersion) -> str:
    """Where the Gateway API publishes its CRDs."""
    releases = "https://github.com/kubernetes-sigs/gateway-api/releases/download"
    return f"{releases}/{version.gateway_api}/standard-install.yaml"


class UnsupportedVersion(ValueError):
    """A release of Cilium that is not in the table."""

    def __init__(self, chart_version: str):
        self.version = chart_version
        super().__init__(f"Cilium {chart_version} is not supported; supported are {SUPPORTED}")


def of(chart_version: str) -> CiliumVersion:
    """The release line of a chart's version such as 1.18.4. UnsupportedVersion otherwise."""
    found = VERSIONS.get(".".join(chart_version.split(".")[:2]))
    if found is None:
        raise UnsupportedVersion(chart_version)
    return found


def between(one: str, other: str) -> list[str]:
    """The minor releases that lie between those of two charts; none where one is no version."""
    minors = [tuple(map(int, minor.split("."))) for minor in VERSIONS]
    try:
        first, last = sorted(tuple(map(int, it.split(".")[:2])) for it in (one, other))
    except ValueError:
        return []
    return [f"{major}.{minor}" for major, minor in minors if first < (major, minor) < last]
