"""The other side of the join's rows: machines of the same image that join by `kubeadm join`.

TLS bootstrap with a bootstrap token, the API server's certificate known beforehand as ours is.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from bench.measure import BenchError
from components.machine_host.recipe import recipe
from components.workers import cloud_init, kubelet, nspawn, registries
from components.workers.seed import Registry, Seed
from lab import facts, pki
from lab.place import Place
from tools.pins import KUBERNETES_VERSION

# A token of the bench's own throw-away cluster.
_TOKEN = "abcdef.0123456789abcdef"
_LAYER = ".kubeadm"
START = "var/log/kubeadm-start"
_RUNTIME = kubelet.RUNTIME_ENDPOINT
_DISCOVERY = "/etc/kubernetes/discovery.kubeconfig"
_JOIN = "/etc/kubernetes/join.yaml"

_UNIT = """\
[Unit]
Description=Kubernetes kubelet
After=network-online.target containerd.service
Wants=network-online.target containerd.service
StartLimitIntervalSec=0

[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS
Restart=always
RestartSec=10

[Install]
WantedBy=multi-user.target
"""  # noqa: E501


def prepare(place: Place, folder: Path, kubelet_overrides: dict[str, Any]) -> str:
    """Make the cluster take kubeadm's joins; the image for its machines."""
    layer = place.state / "machines" / _LAYER / "usr/bin"
    layer.mkdir(parents=True, exist_ok=True)
    program = shutil.which("kubeadm")
    if program is None:
        raise BenchError("kubeadm is not on PATH; `make bench` builds it")
    shutil.copy2(program, layer / "kubeadm")
    configuration = folder / "init.yaml"
    configuration.write_text(yaml.safe_dump_all(_initial(place, kubelet_overrides)))
    for phase in (("upload-config", "all"), ("bootstrap-token",)):
        command = [program, "init", "phase", *phase, f"--config={configuration}"]
        command += [f"--kubeconfig={place.state / 'kubeconfig'}"]
        answer = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
        if answer.returncode:
            raise BenchError(f"`kubeadm init phase {phase[0]}`: {answer.stderr.strip()}")
    return f"/var/lib/autojoin/machines/{_LAYER}"


@contextlib.contextmanager
def signer(place: Place) -> Iterator[None]:
    """What approves and signs kubelets' requests; the lab's own control plane needs none."""
    keys = pki.folder(place)
    kubeconfig = place.state / "kubeconfig"
    controllers = ",".join(
        f"certificatesigningrequest-{it}-controller" for it in ("approving", "signing")
    )
    command = [
        "kube-controller-manager",
        *(f"--{it}kubeconfig={kubeconfig}" for it in ("", "authentication-", "authorization-")),
        f"--controllers={controllers}",
        f"--cluster-signing-cert-file={keys / 'ca.pem'}",
        f"--cluster-signing-key-file={keys / 'ca-key.pem'}",
        "--leader-elect=false",
        "--secure-port=0",
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _initial(place: Place, kubelet_overrides: dict[str, Any]) -> list[dict[str, Any]]:
    version = {"apiVersion": "kubeadm.k8s.io/v1beta4"}
    return [
        {
            **version,
            "kind": "InitConfiguration",
            "bootstrapTokens": [
                {
                    "token": _TOKEN,
                    "ttl": "24h0m0s",
                    "usages": ["signing", "authentication"],
                    "groups": ["system:bootstrappers:kubeadm:default-node-token"],
                }
            ],
            "localAPIEndpoint": {"advertiseAddress": str(place.hypervisor_address)},
            "nodeRegistration": {"criSocket": _RUNTIME},
        },
        {
            **version,
            "kind": "ClusterConfiguration",
            "kubernetesVersion": f"v{KUBERNETES_VERSION}",
            "controlPlaneEndpoint": place.api_server.removeprefix("https://"),
            "networking": {"serviceSubnet": "10.30.0.0/16"},
        },
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "failSwapOn": False,
            "clusterDNS": ["10.30.0.10"],
            "containerRuntimeEndpoint": _RUNTIME,
            # The image's containerd has it too, and kubelets that kubeadm sets nothing up for.
            "cgroupDriver": "cgroupfs",
            **kubelet_overrides,
            # kubeadm drops the empty list that ours has, and the kubelet would take its default.
            "enforceNodeAllocatable": ["none"],
        },
    ]


def machine_input(place: Place, name: str, address: str, image: str) -> str:
    """Standard input of `machine apply` for a machine that joins by kubeadm."""
    members = nspawn.parcel(
        _seed(place, name, address),
        image=image,
        bridge="br0",
        gate_url="https://127.0.0.1",
        authority_pem=_authority(place),
        status_token="none",
    )
    return recipe(members)


def _authority(place: Place) -> str:
    return (place.state / "pki" / "ca.pem").read_text()


def _seed(place: Place, name: str, address: str) -> Seed:
    # What kubeadm asks for to be done before it: the registry of the images, and forwarding.
    url = f"https://{place.hypervisor_address}:{facts.REGISTRY_PORT}"
    images = registries.files((Registry("default", (url,), False, _authority(place)),))
    data = {
        "hostname": name,
        "locale": "C.UTF-8",
        "package_update": False,
        "ssh_genkeytypes": ["ed25519"],
        "write_files": [
            _file(_DISCOVERY, yaml.safe_dump(_discovery(place))),
            _file(_JOIN, yaml.safe_dump(_join(name, address))),
            _file("/etc/systemd/system/kubelet.service", _UNIT),
            *(_file(path, content) for path, content in images.items()),
        ],
        "runcmd": [
            "sysctl -q -w net.ipv4.ip_forward=1",
            f"date +%s.%N >/{START}; kubeadm join --config={_JOIN} >/var/log/kubeadm.log 2>&1",
        ],
        # No more of cloud-init than our own seeds run.
        **cloud_init.MODULES,
    }
    network = {
        "version": 2,
        "ethernets": {
            "host0": {
                "match": {"name": "host0"},
                "dhcp4": False,
                "addresses": [f"{address}/{place.network.prefixlen}"],
                # Cilium's agent takes no veth for a device that has no default route.
                "routes": [{"to": "0.0.0.0/0", "via": str(place.hypervisor_address)}],
            }
        },
    }
    return Seed(
        user_data=f"#cloud-config\n{yaml.safe_dump(data)}",
        meta_data=yaml.safe_dump({"instance-id": name, "local-hostname": name}),
        network_config=yaml.safe_dump(network),
        vendor_data="#cloud-config\n{}\n",
    )


def _file(path: str, content: str) -> dict[str, str]:
    return {"path": path, "permissions": "0600", "content": content}


def _discovery(place: Place) -> dict[str, Any]:
    authority = base64.b64encode(_authority(place).encode()).decode()
    cluster = {"server": place.api_server, "certificate-authority-data": authority}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bench", "cluster": cluster}],
        "users": [{"name": "bench", "user": {"token": _TOKEN}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "current-context": "bench",
    }


def _join(name: str, address: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "JoinConfiguration",
        "discovery": {
            "file": {"kubeConfigPath": _DISCOVERY},
            "tlsBootstrapToken": _TOKEN,
        },
        "nodeRegistration": {
            "name": name,
            "criSocket": _RUNTIME,
            "ignorePreflightErrors": ["all"],
            "kubeletExtraArgs": [{"name": "node-ip", "value": address}],
        },
    }


def explain(place: Place, name: str) -> str:
    """The last lines of a machine that did not join."""
    log = place.state / "machines" / name / "disk/upper/var/log/kubeadm.log"
    return json.dumps(log.read_text(errors="replace")[-600:] if log.exists() else "it wrote none")
