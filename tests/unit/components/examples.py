"""Values that tests of rendering share."""

from __future__ import annotations

from components.workers.seed import Cluster, Node

# Valid from 2026-01-01; its key was thrown away.
AUTHORITY_PEM = """\
-----BEGIN CERTIFICATE-----
MIIBPDCB4qADAgECAgEBMAoGCCqGSM49BAMCMBwxGjAYBgNVBAMMEWV4YW1wbGUg
YXV0aG9yaXR5MCAXDTI2MDEwMTAwMDAwMFoYDzIxMjUxMjA4MDAwMDAwWjAcMRow
GAYDVQQDDBFleGFtcGxlIGF1dGhvcml0eTBZMBMGByqGSM49AgEGCCqGSM49AwEH
A0IABK0hoU0hPTBOxbWmkLo6ffXgaS/xoqxJIsbfN5dQ3sQbrqMH6fHadnJl0MLE
Qk3N4CokEnPxU32KxvNrWHyR+uCjEzARMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZI
zj0EAwIDSQAwRgIhAM0yh1e/6bmllpxWrO5iZAoAxOq0HmU0gFUae5Fc6JIgAiEA
sGz00nlNG6O2npWX/m816E+IK2QWmMc1Xy66kXqh11w=
-----END CERTIFICATE-----
"""
AUTHORITY_NOT_BEFORE = 1767225600

CLUSTER = Cluster(
    name="default-cluster",
    api_server="https://192.168.10.5:6443",
    kubernetes_version="1.34.2",
    pod_cidrs=("10.20.0.0/16",),
    service_cidrs=("10.30.0.0/16",),
    node_cidrs=("192.168.10.0/24",),
    dns_servers=("192.168.10.1",),
)
NODE = Node(
    name="worker-1",
    addresses=("192.168.10.11",),
    generation=1,
    identity="worker-1-g1-3f2a9c1d",
    labels={"bgp": "worker"},
    interface="host0",
)
