"""Labs whose BGP is the post's own, and one that uses every key."""

from __future__ import annotations

import copy
from typing import Any

from components.load import from_values
from stack.models import Lab

# The post's: one router, one pool, ClusterIPs announced, community 65000:99.
POST: dict[str, Any] = {
    "cluster": {
        "name": "default-cluster",
        "apiServer": "https://192.168.10.5:6443",
        "podCidrs": ["10.20.0.0/16"],
        "serviceCidrs": ["10.30.0.0/16"],
        "nodeCidrs": ["192.168.10.0/24"],
    },
    "certificateAuthority": {
        "host": {"address": "192.168.10.2", "hostKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHk7"},
        "platform": "illumos",
        "source": "existing",
        "certificate": "/etc/kubernetes-ca/ca.pem",
        "key": "/etc/kubernetes-ca/ca-key.pem",
    },
    "bgp": {
        "localAsn": 65010,
        "peers": [{"name": "router", "address": "192.168.10.1", "asn": 65001}],
        "communities": ["65000:99"],
        "loadBalancerPools": [{"name": "ippool", "cidrs": ["192.168.50.0/24"]}],
    },
    "workers": {
        "bhyve-1": {
            "hardware": "bhyve",
            "address": "192.168.10.21",
            "mac": "02:08:20:00:00:21",
        },
        "rk1-1": {"hardware": "turing-rk1", "address": "192.168.10.31", "slot": 1},
        "cm4-1": {"hardware": "turing-cm4", "address": "192.168.10.32", "slot": 2},
        "metal-1": {
            "hardware": "bare-metal",
            "address": "192.168.10.41",
            "mac": "a0:36:9f:00:00:41",
            "disk": "/dev/nvme0n1",
        },
    },
}

EVERY_KEY: dict[str, Any] = {
    "localAsn": 65010,
    "port": 179,
    "nodeSelector": {
        "matchLabels": {"bgp": "worker"},
        "matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["attic"]}],
    },
    "peers": [
        {
            "name": "router",
            "address": "192.168.10.1",
            "asn": 65001,
            "port": 1179,
            "password": "correct-horse",
            "holdTime": 9,
            "connectRetryTime": 5,
            "gracefulRestart": 60,
            "families": ["ipv4", "ipv6"],
            "advertise": ["bgp", "public"],
        },
        {"name": "plain", "address": "192.168.10.3", "asn": 65001},
        {"name": "six", "address": "fd00:10::1", "asn": 65001},
        {"name": "far", "address": "203.0.113.1", "asn": 65100, "ebgpMultihop": 3},
    ],
    "instances": [
        {
            "name": "inside",
            "localAsn": 4200000001,
            "nodeSelector": {"matchLabels": {"bgp": "storage"}},
            "peers": [
                {"name": "reflector", "address": "192.168.10.4", "asn": 4200000001, "holdTime": 30}
            ],
        }
    ],
    "communities": ["65000:99"],
    "advertise": {
        "podCidrs": True,
        "services": ["ClusterIP", "ExternalIP", "LoadBalancerIP"],
        "selector": {"matchExpressions": [{"key": "internal", "operator": "DoesNotExist"}]},
        "largeCommunities": ["4200000000:1:2"],
        "localPreference": 200,
        "aggregationLengthIpv4": 24,
        "aggregationLengthIpv6": 112,
    },
    "advertisements": [
        {
            "name": "public",
            "podCidrs": False,
            "services": ["LoadBalancerIP"],
            "selector": {"matchLabels": {"expose": "yes"}},
            "communities": ["65000:100"],
            "wellKnownCommunities": ["no-export"],
        }
    ],
    "loadBalancerPools": [
        {"name": "ippool", "cidrs": ["192.168.50.0/24", "fd00:50::/112"]},
        {
            "name": "public",
            "ranges": [{"start": "198.51.100.10", "stop": "198.51.100.20"}],
            "serviceSelector": {"matchLabels": {"expose": "yes"}},
            "allowFirstLastIps": False,
            "disabled": True,
        },
    ],
    "overrides": [
        {
            "node": "bhyve-1",
            "instance": "instance-65010",
            "routerId": "192.168.10.21",
            "localAsn": 65011,
            "port": 1790,
            "peers": [{"name": "router", "localAddress": "192.168.10.21", "localPort": 1791}],
        },
        {"node": "metal-1", "instance": "inside", "routerId": "192.168.10.41"},
    ],
    "awaitSessions": 120,
}


def lab(version: str = "1.18.4", **changes: Any) -> Lab:
    """The post's lab with whole sections or keys `section__key` replaced."""
    values = copy.deepcopy(POST)
    values["cilium"] = {"version": version}
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            values[section][key] = value
        else:
            values[section] = value
    return from_values(values)


def full_lab(version: str = "1.18.4") -> Lab:
    """Every key of autojoin:bgp that the release can take."""
    bgp = copy.deepcopy(EVERY_KEY)
    if version.startswith("1.17"):
        del bgp["port"], bgp["overrides"][0]["localAsn"]
        del bgp["advertise"]["aggregationLengthIpv4"], bgp["advertise"]["aggregationLengthIpv6"]
    workers = copy.deepcopy(POST["workers"])
    workers["metal-1"]["labels"] = {"bgp": "storage"}
    return lab(
        version,
        bgp=bgp,
        workers=workers,
        cluster__podCidrs=["10.20.0.0/16", "fd00:20::/104"],
        cluster__serviceCidrs=["10.30.0.0/16", "fd00:30::/112"],
        cluster__nodeCidrs=["192.168.10.0/24", "fd00:10::/64"],
    )
