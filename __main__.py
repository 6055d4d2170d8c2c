"""Load the lab, wire its components, export what a person wants to know."""

import pulumi
import pulumi_kubernetes as kubernetes

from components import checks, interrupt, pace  # noqa: F401
from components.admission.component import Admission
from components.bgp.component import Bgp
from components.certificate_authority.component import CertificateAuthority
from components.cilium.component import Cilium, kubeconfig
from components.join_gate.component import JoinGate
from components.workers.rotation import allow_rotation
from components.workers.worker import MachineHost, Worker
from stack.from_pulumi import load

lab = load(checks)
provider = kubernetes.Provider("cluster", kubeconfig=kubeconfig(lab))

authority = CertificateAuthority("ca", lab.certificate_authority)
allow_rotation("rotation", provider)
gate = JoinGate("gate", authority, lab.join_gate)
cilium = Cilium("cilium", lab, provider)
bgp = Bgp("bgp", lab.bgp, cilium, provider) if lab.bgp else None

workers = {name: Worker(name, lab, gate) for name in lab.workers}
registrations = [worker.registration for worker in workers.values()]
admission = Admission("admission", lab, gate, registrations)
hosts = {name: MachineHost(name, lab, authority.certificate_pem) for name in lab.provisioners()}
for worker in workers.values():
    worker.join([admission.ready, cilium.release], hosts)

pulumi.export(
    "certificateAuthority",
    {
        "url": gate.url,
        "certificatePem": authority.certificate_pem,
        "fingerprint": authority.fingerprint,
    },
)
pulumi.export("nodes", {name: worker.summary for name, worker in workers.items()})
pulumi.export("cilium", {"version": lab.cilium.version, "release": cilium.release.status})
pulumi.export("bgp", {"localAsn": lab.bgp.local_asn if lab.bgp else None})
pulumi.run(pace.begin_registrations)
