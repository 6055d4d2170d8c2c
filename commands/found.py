"""What a cluster and a host say of themselves, for who writes their stack file."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import yaml

from components.shell import kubectl


@functools.cache
def cluster(kubeconfig: str) -> dict[str, Any]:
    """Keys of the section `cluster`, as the API server has them; without those that nobody tells.

    An API server that is silent tells nothing but what the kubeconfig has of it.
    """
    if not Path(kubeconfig).expanduser().is_file():
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
