"""Somebody else's program: two clusters side by side, with no stack file and none of our `Lab`."""

import pulumi
import pulumi_kubernetes as kubernetes

from components.admission.component import Admission, AdmissionArgs
from components.certificate_authority.component import (
    CertificateAuthority,
    CertificateAuthorityArgs,
)
from components.cilium.component import Cilium, CiliumArgs
from components.join_gate.component import JoinGate, JoinGateArgs
from components.machine_host.component import MachineHost, MachineHostArgs
from components.workers.hardware import Site
from components.workers.hardware_types import WORKERS
from components.workers.worker import WorkerArgs
from stack import models

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHk7"
CILIUM = models.Cilium(chart=pulumi.Config().require("chart"))
BOARD = models.Board(address="203.0.113.99")
MORE: dict[str, dict[str, object]] = {
    "turing-rk1": {"slot": 1},
    "turing-cm4": {"slot": 2},
    "bare-metal": {"mac": "a0:36:9f:00:00:41", "disk": "/dev/sda"},
    "nspawn": {"image": "/image"},
}
for number, name in enumerate(("first", "second"), 1):
    cluster = models.Cluster.model_validate(
        {
            "name": name,
            "apiServer": f"https://203.0.113.{number}:6443",
            "kubeconfig": f"/nowhere/{name}",
            "podCidrs": ["10.20.0.0/16"],
            "serviceCidrs": ["10.30.0.0/16"],
            "nodeCidrs": ["203.0.113.0/24"],
        }
    )
    host = {"address": f"203.0.113.{10 + number}", "hostKey": KEY}
    settings = {"host": host, "platform": "linux", "source": "generate"}
    authority = models.CertificateAuthority.model_validate(settings)
    ca = CertificateAuthority(f"{name}-ca", CertificateAuthorityArgs(authority))
    gate = JoinGate(f"{name}-gate", JoinGateArgs(ca))
    api = kubernetes.Provider(f"{name}-api", kubeconfig=cluster.kubeconfig)
    opts = pulumi.ResourceOptions(provider=api)
    cilium = Cilium(f"{name}-cilium", CiliumArgs(cluster, CILIUM), opts)
    feeding = models.ProvisioningHost.model_validate(host)
    site = Site(cluster, gate.url, feeding, BOARD)
    registered = {}
    for slot, (hardware, kind) in enumerate(WORKERS.items()):
        values: dict[str, object] = {
            "hardware": hardware,
            "address": f"203.0.113.{20 + slot}",
            **MORE.get(hardware, {}),
        }
        node = kind.hardware(f"node-{slot}", models.Worker.model_validate(values), site)
        registered[hardware] = gate.register(f"{name}-node-{slot}", node)
    those, version = list(registered.values()), cluster.kubernetes_version
    args = AdmissionArgs(gate, those, cluster.kubeconfig, 300, version)
    admission = Admission(f"{name}-admission", args)
    nodes = [registration.node for registration in registered.values()]
    machines = MachineHost(f"{name}-host", MachineHostArgs(feeding, cluster, gate, nodes))
    for slot, (hardware, kind) in enumerate(WORKERS.items()):
        needs = [admission.ready, cilium.release]
        kind(f"{name}-node-{slot}", WorkerArgs(registered[hardware], machines, needs))
