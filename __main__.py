"""Load the lab, wire its components, export what a person wants to know."""

import pulumi
import pulumi_kubernetes as kubernetes

from components import checks, from_lab, interrupt, pace  # noqa: F401
from components.admission.component import Admission, AdmissionArgs
from components.bgp import resources as render
from components.bgp.component import Bgp, BgpArgs
from components.certificate_authority.component import (
    CertificateAuthority,
    CertificateAuthorityArgs,
)
from components.cilium.component import Cilium, CiliumArgs, kubeconfig
from components.dns.component import Dns, DnsArgs
from components.join_gate.component import JoinGate, JoinGateArgs
from components.machine_host.component import MachineHost, MachineHostArgs
from components.workers import hardware_types
from components.workers.joins import Joins, JoinsArgs, back
from components.workers.rollout import Rollout, Steps
from components.workers.worker import WorkerArgs
from stack.from_pulumi import load

lab = load(checks)
cluster = kubernetes.Provider("cluster", kubeconfig=kubeconfig(lab.cluster))
in_cluster = pulumi.ResourceOptions(provider=cluster)

authority = CertificateAuthority("ca", CertificateAuthorityArgs(lab.certificate_authority))
gate = JoinGate("gate", JoinGateArgs(authority, lab.join_gate))
cilium_args = CiliumArgs(lab.cluster, lab.cilium, lab.bgp is not None, from_lab.taints(lab))
cilium = Cilium("cilium", cilium_args, in_cluster)
bgp = Bgp("bgp", BgpArgs(lab.bgp, cilium), in_cluster) if lab.bgp else None
dns = from_lab.dns(lab)
if dns:
    Dns("dns", DnsArgs(dns), in_cluster)

nodes = {name: hardware_types.of(lab, name) for name in lab.workers}
registered = {name: gate.register(name, node) for name, node in nodes.items()}
admission_args = AdmissionArgs(
    gate,
    list(registered.values()),
    kubeconfig(lab.cluster),
    lab.rollout.drain_timeout,
    lab.cluster.kubernetes_version,
)
admission = Admission("admission", admission_args)
steps = Steps(admission.leaving, back(gate, nodes))
rollout = Rollout("rollout", kubeconfig(lab.cluster), steps, lab.rollout.max_unavailable)
hosts = {}
for name in lab.provisioners():
    host = lab.provisioning[name]
    there = [node for node in nodes.values() if node.is_at(host)]
    host_args = MachineHostArgs(host, lab.cluster, gate, there, [admission.ready])
    hosts[name] = MachineHost(name, host_args)
workers = {}
for name, settings in lab.workers.items():
    at = hosts.get(lab.provisioner_name(settings) or "")
    args = WorkerArgs(registered[name], at, [admission.ready, cilium.release], rollout)
    workers[name] = hardware_types.WORKERS[settings.hardware](name, args)
joins = Joins("joins", JoinsArgs(gate, workers))
if bgp:
    bgp.await_sessions(render.sessions(lab), [joins])

pulumi.export(
    "certificateAuthority",
    {
        "url": gate.url,
        "certificatePem": authority.certificate_pem,
        "fingerprint": authority.fingerprint,
        "signs": authority.paths[0],
        "trusts": authority.paths,
    },
)
pulumi.export("nodes", joins.nodes)
pulumi.export("rollout", lab.rollout.model_dump(by_alias=True))
pulumi.export("cilium", {"version": lab.cilium.version, "release": cilium.release.status})
pulumi.export("bgp", {"localAsn": lab.bgp.local_asn if lab.bgp else None})
pulumi.export("dns", {"address": lab.dns_address})
pulumi.run(pace.begin_registrations)
