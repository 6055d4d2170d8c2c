"""What a cluster and a host say of themselves, for who writes their stack file."""

from __future__ import annotations

import functools
import ipaddress
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from components.shell import kubectl, ssh
from stack.models import Host

_PLATFORMS = {
    "Linux": "linux",
    "SunOS": "illumos",
    "FreeBSD": "freebsd",
    "OpenBSD": "openbsd",
    "NetBSD": "netbsd",
}
# Where kubeadm keeps the cluster's CA, and where this project's documents do.
_PAIRS = {
    "/etc/kubernetes/pki/ca.key": "/etc/kubernetes/pki/ca.crt",
    "/etc/kubernetes-ca/ca-key.pem": "/etc/kubernetes-ca/ca.pem",
}
# A line each of the first three. Linux alone says its networks in a way that can be read.
_ASK_HOST = """\
uname -s
ip -json address show 2>/dev/null || echo
ip -json {family} route show default 2>/dev/null || echo
ls -d {keys} 2>/dev/null
cat /etc/resolv.conf 2>/dev/null
:
"""


@functools.cache
def cluster(kubeconfig: str) -> dict[str, Any]:
    """Keys of the section `cluster`, as the API server has them; without those that nobody tells.

    An API server that is silent tells nothing but what the kubeconfig has of it.
    """
    if not Path(kubeconfig).expanduser().is_file():
        return {}
    if not shutil.which("kubectl"):
        print("kubectl is not on PATH, so the cluster was not asked", file=sys.stderr)
        return {}
    found: dict[str, Any] = {}
    for read in (_server, _version, _services, _kubeadm):
        try:
            found = {**read(kubeconfig), **found}
        except (kubectl.KubectlError, LookupError, ValueError, TypeError, yaml.YAMLError):
            continue
    return found


def _server(kubeconfig: str) -> dict[str, Any]:
    view = kubectl.ask(kubeconfig, "config", "view", "--minify")
    return {"apiServer": view["clusters"][0]["cluster"]["server"]}


def _version(kubeconfig: str) -> dict[str, Any]:
    version = kubectl.ask(kubeconfig, "version")["serverVersion"]["gitVersion"]
    return {"kubernetesVersion": re.findall(r"^v(\d+\.\d+\.\d+)", version)[0]}


def _services(kubeconfig: str) -> dict[str, Any]:
    """Since Kubernetes 1.33; https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/"""
    networks = kubectl.items(kubeconfig, "servicecidrs")
    (first,) = (each for each in networks if each["metadata"]["name"] == "kubernetes")
    return {"serviceCidrs": first["spec"]["cidrs"]}


def _kubeadm(kubeconfig: str) -> dict[str, Any]:
    """Where kubeadm made the control plane, it left what it was told."""
    where = ("configmap", "kubeadm-config", "--namespace=kube-system")
    (found,) = kubectl.items(kubeconfig, *where)
    networks = yaml.safe_load(found["data"]["ClusterConfiguration"])["networking"]
    names = {"podCidrs": "podSubnet", "serviceCidrs": "serviceSubnet"}
    return {key: networks[name].split(",") for key, name in names.items() if networks.get(name)}


@functools.cache
def host(login: str) -> dict[str, Any]:
    """What a host tells of itself and of its network; nothing where it does not let one in.

    `login` is the JSON of its entry in the stack file.
    """
    entry = json.loads(login)
    address = entry["address"]
    if not ssh.offered(address):  # which says so sooner than a login
        return {}
    family = "-6" if ":" in address else "-4"
    command = _ASK_HOST.format(family=family, keys=" ".join(_PAIRS))
    try:
        said = ssh.run(Host.model_validate(entry), command)
        return told(address, said.decode(errors="replace"))
    except (ssh.SshError, LookupError, ValueError, TypeError):
        return {}


def told(address: str, said: str) -> dict[str, Any]:
    """What is in a host's answer to _ASK_HOST, as keys of the stack file.

    `platform`; `certificate` and `key`, where it has a cluster's CA; `nodeCidrs`, `gateway` and
    `dnsServers`, its own.
    """
    system, addresses, routes, *rest = [*said.splitlines(), "", "", ""]
    key = next((line for line in rest if line in _PAIRS), "")
    found: dict[str, Any] = {
        "platform": _PLATFORMS.get(system),
        "certificate": _PAIRS.get(key),
        "key": key,
        "dnsServers": _resolvers(rest),
    }
    if addresses:
        found["nodeCidrs"] = _networks(address, json.loads(addresses))
    if routes:
        found["gateway"] = next((it["gateway"] for it in json.loads(routes) if "gateway" in it), "")
    return {name: value for name, value in found.items() if value}


def _networks(address: str, interfaces: list[dict[str, Any]]) -> list[str]:
    """The network that the host has its address in."""
    known = (each for interface in interfaces for each in interface["addr_info"])
    return [
        str(ipaddress.ip_interface(f"{each['local']}/{each['prefixlen']}").network)
        for each in known
        if each["local"] == address
    ]


def _resolvers(lines: list[str]) -> list[str]:
    """Those of a resolv.conf, without what only the host itself reaches."""
    found = [line.split()[1] for line in lines if re.match(r"nameserver\s+[0-9a-fA-F.:]+$", line)]
    return [it for it in found if not ipaddress.ip_address(it).is_loopback]
