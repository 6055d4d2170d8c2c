"""What a lab is: every key of the stack configuration, with a description and an example."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, PrivateAttr, SecretStr

from stack.bgp import Bgp
from stack.problem import Problem, key_path
from stack.section import Section, key
from stack.types import (
    AbsolutePath,
    Addresses,
    AddressText,
    CfsslChoice,
    ClusterName,
    CountryCode,
    DiskPath,
    HostKey,
    HostText,
    HttpsUrl,
    ImageText,
    LabelKey,
    LabelValue,
    LinkName,
    MacAddress,
    NetworkText,
    NodeAddresses,
    NodeName,
    PublicKeyPin,
    RegistryName,
    RegistryUrl,
    SeedUrl,
    SigningKey,
    Size,
    SubjectText,
    Suite,
    Taint,
    Version,
    WorkerName,
    ZfsDataset,
    ZoneName,
)

Hardware = Literal["bhyve", "turing-rk1", "turing-cm4", "bare-metal", "nspawn"]
OsRelease = Literal["debian-12", "debian-13", "ubuntu-22.04", "ubuntu-24.04"]


# The signing key of pkgs.k8s.io, whose expiry is extended from time to time: by its fingerprint,
# which an extension does not change.
PACKAGES_KEY = "DE15B14486CD377B9E876E1A234654DA9A296436"


class Packages(Section):
    """Where plain images get kubelet and kubectl; the rest of apt is `userData.apt` of a worker."""

    repository: SeedUrl | None = key(
        "URL of an apt repository that has them; by default that of pkgs.k8s.io for the minor "
        "release of kubernetesVersion",
        "http://192.168.10.4/kubernetes/v1.34/deb/",
        default=None,
    )
    suite: Suite = key("Its suite and components, where it is not flat", "stable main", default="/")
    key: SigningKey = key(
        "Its signing key: the fingerprint of its Release.key, which nodes fetch and believe with "
        "that alone; or the key itself, armored, or the path of its file on the machine that runs "
        "this program",
        PACKAGES_KEY,
        default=PACKAGES_KEY,
        min_length=1,
    )

    @property
    def fingerprint(self) -> str:
        """The fingerprint of a key that nodes fetch; empty where they are given it."""
        return self.key if len(self.key) == 40 and self.key.isalnum() else ""

    @property
    def key_text(self) -> str:
        """The key that nodes are given. OSError or ValueError where it has none."""
        return "" if self.fingerprint else pem(self.key) or ""


class Cluster(Section):
    """The cluster and its networks; its control plane is external and already runs."""

    name: ClusterName = key("Name of the cluster, ≤ 32 of a-z 0-9 -", "default-cluster")
    api_server: HttpsUrl = key("URL of the API server", "https://192.168.10.5:6443")
    kubeconfig: str = key(
        "How this program reaches the API; nodes never see it",
        "~/.kube/home.yaml",
        default="~/.kube/config",
    )
    kubernetes_version: Version = key("Version of the kubelets", "1.34.2", default="1.34.2")
    control_plane_version: Version | None = key(
        "Version of the API server, where it is another than the kubelets'; "
        "they may be at most 3 minor versions older, never newer",
        "1.34.2",
        default=None,
    )
    pod_cidrs: list[NetworkText] = key("Networks of pods", ["10.20.0.0/16"], min_length=1)
    service_cidrs: list[NetworkText] = key("Networks of Services", ["10.30.0.0/16"], min_length=1)
    node_cidrs: list[NetworkText] = key("Networks of nodes", ["192.168.10.0/24"], min_length=1)
    dns_servers: list[AddressText] = key("Resolvers of nodes", ["192.168.10.1"], default=[])
    gateways: Addresses = key(
        "Default route of nodes: one gateway, or a list with one for each network of nodes. "
        "Link-local ones, and those of networks of one address, are reached on the link",
        "192.168.10.1",
        default=(),
        alias="gateway",
    )

    sandbox_image: ImageText = key(
        "Image that holds a pod's namespaces, where the node's container runtime is set up",
        "registry.k8s.io/pause:3.10.1",
        default="registry.k8s.io/pause:3.10.1",
    )
    packages: Packages = key(
        "Where plain images get kubelet and kubectl",
        {"repository": "http://192.168.10.4/kubernetes/v1.34/deb/"},
        default=Packages(),
    )
    api_server_certificate_authority: str | None = key(
        "CA of the API server's certificate, where it is another one than the nodes': PEM, or the "
        "path of a file on the machine that runs this program",
        "~/.kube/home-ca.pem",
        default=None,
        min_length=1,
    )

    @property
    def api_server_authority_pem(self) -> str | None:
        """The text of apiServerCertificateAuthority. OSError or ValueError where it has none."""
        return pem(self.api_server_certificate_authority)

    @property
    def api_host(self) -> str:
        return urlsplit(self.api_server).hostname or ""

    @property
    def api_port(self) -> int:
        return urlsplit(self.api_server).port or 443


class Login(Section):
    """How one machine is logged in to over SSH. Its host key is pinned."""

    address: HostText = key("Address or name", "192.168.10.2")
    port: int = key("Port of sshd", 22, default=22, ge=1, le=65535)
    user: str = key(
        "User to log in as; one that is not root becomes it there by sudo or doas, without a "
        "password",
        "root",
        default="root",
        min_length=1,
    )
    host_key: HostKey = key(
        "Public host key, pinned; or its file, NAME.pub, on the machine that runs this program",
        "ssh-ed25519 AAAA…",
    )
    private_key: SecretStr | None = key(
        "Private key to log in with, a secret; without it the SSH agent is used",
        {"secure": "…"},
        default=None,
    )
    private_key_file: str | None = key(
        "Private key to log in with, as a file on the machine that runs this program",
        "~/.ssh/id_ed25519",
        default=None,
    )
    _where: str = PrivateAttr(default="autojoin:certificateAuthority.host")

    @property
    def where(self) -> str:
        """Its key in the configuration, for messages."""
        return self._where


class JumpHost(Login):
    """A machine through which another is reached; nothing is done on it."""

    user: str = key("User to log in as", "jump", default="root", min_length=1)
    private_key: SecretStr | None = key(
        "Private key to log in with, a secret; without it that of the host behind it is used",
        {"secure": "…"},
        default=None,
    )


class Host(Login):
    """A machine on which things are done, over SSH."""

    jump: JumpHost | None = key(
        "Host through which it is reached",
        {"address": "192.168.10.1", "user": "me", "hostKey": "~/.ssh/jump-host.pub"},
        default=None,
    )

    def model_post_init(self, context: object, /) -> None:
        self.be_at(self._where)

    def be_at(self, where: str) -> None:
        """Let it be known by its key in the configuration."""
        self._where = where
        if self.jump:
            self.jump._where = f"{where}.jump"


class Subject(Section):
    """Further fields of the subject of a generated CA."""

    country: CountryCode | None = key("Country, two letters", "SE", default=None)
    province: SubjectText | None = key("State or province", "Stockholm", default=None)
    locality: SubjectText | None = key("Town", "Stockholm", default=None)
    organization: SubjectText | None = key("Organization", "Home lab", default=None)
    organizational_unit: SubjectText | None = key("Part of it", "Rack 1", default=None)


class ProvisioningHost(Host):
    """A host that runs machines or feeds them: hypervisor, boot server, web root."""

    directory: AbsolutePath = key(
        "Folder there for the nodes' files",
        "/srv/http/autojoin",
        default="/var/lib/autojoin/nodes",
    )
    seed_url: SeedUrl | None = key(
        "URL at which its web server serves that folder (bare metal); "
        "without it the one that iPXE was booted from, /autojoin/",
        "http://192.168.10.4/autojoin/",
        default=None,
    )
    manager: Literal["zadm", "vm-bhyve", "libvirt"] | None = key(
        "What `pulumi up` itself makes, starts and removes its bhyve guests with; "
        "without it a person runs guest.sh",
        "zadm",
        default=None,
    )


class AlsoTrusted(Section):
    """Another CA's certificate and key on the CA host: trusted, and it does not sign for nodes."""

    certificate: AbsolutePath = key(
        "Path of its certificate on the host; with generate it is made there",
        "/etc/kubernetes-ca/next.pem",
    )
    key: AbsolutePath = key("Path of its key on the host", "/etc/kubernetes-ca/next-key.pem")


class CertificateAuthority(Section):
    """The certificate authority's host, and where its certificate and key come from."""

    host: Host = key("The CA host", {"address": "192.168.10.2", "hostKey": "ssh-ed25519 AAAA…"})
    platform: Literal["illumos", "linux", "freebsd", "openbsd", "netbsd"] = key(
        "What the CA host runs", "illumos"
    )
    source: Literal["existing", "generate"] = key(
        "existing: certificate and key are on the host; generate: they are made there", "existing"
    )
    certificate: AbsolutePath | None = key(
        "Path of the certificate on the host; with generate it may be left out",
        "/etc/kubernetes-ca/ca.pem",
        default=None,
    )
    key: AbsolutePath | None = key(
        "Path of the key on the host; with generate it may be left out",
        "/etc/kubernetes-ca/ca-key.pem",
        default=None,
    )
    also: AlsoTrusted | None = Field(
        description="A CA that is trusted beside this one, while one of them replaces the other",
        examples=[
            {
                "certificate": "/etc/kubernetes-ca/next.pem",
                "key": "/etc/kubernetes-ca/next-key.pem",
            }
        ],
        default=None,
    )
    responder_port: int = Field(
        description="Port of OCSP and the CRL. Certificates name it, those that are there the "
        "former one until they are renewed",
        examples=[8889],
        default=8889,
        ge=1,
        le=65535,
    )
    cfssl: CfsslChoice = Field(
        description="The CFSSL that signs. auto: the host's own where it does all that is asked of "
        "it, which is tried before anything changes, else one is brought; shipped: one is brought; "
        "or the path of one on the host",
        examples=["shipped"],
        default="auto",
    )
    subject: Subject = Field(
        description="Further fields of the subject of a generated CA",
        examples=[{"country": "SE", "locality": "Stockholm"}],
        default=Subject(),
    )
    node_certificate_hours: int = Field(
        description="Life of a node's certificate, which is renewed at two thirds of it; another "
        "one holds from each node's next renewal on",
        examples=[168],
        default=168,
        ge=1,
    )
    setup: int = Field(
        description="Raise it to have the CA host set up again; keys and certdb stay",
        examples=[1],
        default=1,
        ge=1,
    )


Prerequisite = Literal["auto", "install", "present", "off"]
_WHAT_MODE_SAYS = "auto: on where {0} there; install: put there first; present: required; off"


class GatewayApi(Section):
    """Cilium's Gateway API controller, which needs the CRDs of the Gateway API."""

    mode: Prerequisite = key(_WHAT_MODE_SAYS.format("its CRDs are"), "install", default="auto")
    source: str | None = key(
        "Where the CRDs to install are: file, folder or URL; else the Gateway API's own release",
        "~/crds/gateway-api.yaml",
        default=None,
        min_length=1,
    )


class ServiceMonitors(Section):
    """ServiceMonitors of Cilium's parts for the Prometheus operator, which needs their CRD."""

    mode: Prerequisite = key(_WHAT_MODE_SAYS.format("their CRD is"), "install", default="auto")
    source: str | None = key(
        "Where the CRD to install is: file, folder or URL; else the operator's own release",
        "~/crds/servicemonitors.yaml",
        default=None,
        min_length=1,
    )


class Dashboards(Section):
    """Hubble's Grafana dashboards, as ConfigMaps in a namespace that must be there."""

    mode: Prerequisite = key(_WHAT_MODE_SAYS.format("the namespace is"), "install", default="auto")
    namespace: NodeName = key("Namespace of the dashboards", "monitoring", default="monitoring")


class JoinGate(Section):
    """The join gate on the CA host: what nodes talk to."""

    port: int = key(
        "Port on which nodes reach it. It is told in every seed: another one has every node join "
        "anew",
        8443,
        default=8443,
        ge=1,
        le=65535,
    )
    join_key_hours: int = Field(
        description="Hours within which a registered node must have joined",
        examples=[24],
        default=24,
        ge=1,
        le=8760,
    )
    allow_tls12: bool = Field(
        alias="allowTls12",
        description="Speak TLS 1.2 too, for nodes whose openssl or curl is too old for 1.3",
        examples=[False],
        default=False,
    )


class Cilium(Section):
    """The Cilium chart, of release 1.17, 1.18, 1.19 or 1.20."""

    version: Version = key("Version of the chart", "1.18.4", default="1.18.4")
    chart: str = key("Name of the chart, or a path", "cilium", default="cilium", min_length=1)
    repository: str = key(
        "Helm repository of the chart", "https://helm.cilium.io", default="https://helm.cilium.io"
    )
    values: dict[str, Any] = key(
        "Merged over the defaults, last word", {"debug": {"enabled": True}}, default={}
    )
    gateway_api: GatewayApi = key("The Gateway API", {"mode": "install"}, default=GatewayApi())
    service_monitors: ServiceMonitors = key(
        "ServiceMonitors", {"mode": "off"}, default=ServiceMonitors()
    )
    dashboards: Dashboards = key("Dashboards", {"namespace": "monitoring"}, default=Dashboards())

    @property
    def chart_folder(self) -> str | None:
        """The chart's path where it is one, `~` not expanded."""
        return self.chart if "/" in self.chart else None


class Guest(Section):
    """A virtual machine, as its hypervisor is told to make it."""

    cpus: int = key("Virtual processors", 2, default=2, ge=1, le=256)
    memory: Size = key("Memory", "4G", default="4G")
    disk_size: Size = key("Size of its disk", "20G", default="20G")
    dataset: ZfsDataset = key(
        "ZFS dataset that holds the zones' disks", "rpool/zones", default="rpool/zones"
    )
    image: str | None = key(
        "What its disk is made from: for zadm a UUID, path or URL; for vm-bhyve a file of "
        "`vm img`; for libvirt a path. Else guest.sh asks for it",
        "debian-12-generic-amd64.qcow2",
        default=None,
        min_length=1,
    )
    link: LinkName | None = key(
        "Link (OmniOS) that its network interface is made over; else guest.sh asks for it",
        "igb0",
        default=None,
    )
    switch: LinkName = key("Switch (vm-bhyve) that it is attached to", "public", default="public")


class Worker(Section):
    """A worker node."""

    hardware: Hardware = key("Type of hardware", "bhyve")
    addresses: NodeAddresses = key(
        "Address of the node; in a dual-stack cluster a list of two, one of each family",
        "192.168.10.21",
        alias="address",
    )
    generation: int = key("Raise it to join the node anew", 1, default=1, ge=1)
    mac: MacAddress | None = key("MAC address", "02:08:20:00:00:21", default=None)
    disk: DiskPath | None = key("Disk to install to (bare metal)", "/dev/nvme0n1", default=None)
    storage_disk: DiskPath | None = key(
        "Disk for the container runtime's data; formatted at first boot where it is empty",
        "/dev/nvme0n1",
        default=None,
    )
    bmc: str | None = key(
        "Entry of autojoin:boards: the board that holds the module, or the controller by which "
        "`pulumi up` has bare metal installed, and switches it",
        "turing-1",
        default=None,
    )
    slot: int | None = key("Slot of the board, from 1", 1, default=None, ge=1, le=4)
    labels: dict[LabelKey, LabelValue] = key(
        "Node labels", {"bgp": "worker"}, default={"bgp": "worker"}
    )
    taints: list[Taint] = key("Node taints", ["dedicated=storage:NoSchedule"], default=[])
    architecture: Literal["amd64", "arm64"] | None = key(
        "Architecture; by default that of the hardware", "arm64", default=None
    )
    os_release: OsRelease = key("What the node runs", "ubuntu-24.04", default="ubuntu-24.04")
    image_kind: Literal["template", "plain"] | None = key(
        "template: container runtime and kubelet are in the image; plain: they are installed at "
        "first boot. By default plain for boards and bare metal, template for guests and machines",
        "plain",
        default=None,
    )
    node_key: Literal["ecdsa-p256", "rsa-2048"] = key(
        "Key that the node makes for its certificate", "ecdsa-p256", default="ecdsa-p256"
    )
    kubelet: dict[str, Any] = key(
        "Merged over the node's KubeletConfiguration, last word", {"maxPods": 60}, default={}
    )
    user_data: dict[str, Any] = key(
        "Further cloud-init user-data: mappings are merged, lists appended, the rest replaced",
        {"ssh_authorized_keys": ["ssh-ed25519 AAAA…"]},
        default={},
    )
    guest: Guest = key("The virtual machine (bhyve)", {"cpus": 4}, default=Guest())
    provisioner: str | None = key(
        "Provisioning host that runs or feeds the machine; may be left out where there is one",
        "hypervisor",
        default=None,
    )
    image: str | None = key(
        "Root of an nspawn machine: folders on its host, topmost first, with colons between; of a "
        "module the image on its provisioning host, unpacked, that `pulumi up` flashes it with",
        "/var/lib/machines/worker",
        default=None,
    )
    bridge: str = key(
        "Bridge of an nspawn machine or of a guest of libvirt", "br0", default="br0", min_length=1
    )
    await_join: bool | None = key(
        "Whether `pulumi up` waits until the node is Ready; by default where it starts the machine",
        True,
        default=None,
    )
    join_timeout: int | None = key(
        "Seconds to wait for the node; by default 300, or 3600 where it is flashed or installed",
        600,
        default=None,
        ge=1,
    )
    protect: bool = key(
        "Refuse every edit that would remove the node, or provision its machine anew",
        True,
        default=False,
    )


class Board(Section):
    """A management controller (BMC): a board's, or that of a machine of bare metal."""

    protocol: Literal["turing-pi", "redfish", "ipmi", "wake-on-lan"] = key(
        "What it speaks; bare metal has one of the last three", "redfish", default="turing-pi"
    )
    address: HostText = key(
        "Address of the BMC; with wake-on-lan that of the broadcast", "192.168.10.30"
    )
    port: int | None = key(
        "Port of the BMC, where it is another than usual", 8443, default=None, ge=1, le=65535
    )
    system: str | None = key(
        "Which of a Redfish service's systems the machine is, where there are several",
        "437XR1138R2",
        default=None,
        pattern="^[A-Za-z0-9._~-]+$",
    )
    user: str = key("User of the BMC", "root", default="root")
    public_key: PublicKeyPin | None = key(
        "SHA-256 of its TLS public key, pinned, as curl's --pinnedpubkey takes it",
        "sha256//k2oHn9tIB8Zc5e1Kz1bN7t0bV0m2Tt8uW9v1x2y3z4A=",
        default=None,
    )
    password: SecretStr | None = key("Its password, a secret", {"secure": "…"}, default=None)


def pem(given: str | None) -> str | None:
    """The text of a certificate that is given itself, or by its path. OSError where it has none."""
    if given is None or "-----BEGIN" in given:
        return given
    return Path(given).expanduser().read_text()


class Dns(Section):
    """The cluster's DNS, by which pods find Services by name."""

    mode: Literal["install", "external", "off"] = key(
        "install: CoreDNS is put there; external: it is at `address` already; off: pods use the "
        "nodes' resolvers",
        "external",
        default="install",
    )
    address: AddressText | None = key(
        "Its address; with install by default the tenth of the first Service network",
        "10.30.0.10",
        default=None,
    )
    version: Version = key("Version of CoreDNS", "1.13.1", default="1.13.1")
    image: str = key(
        "Its image, without the tag",
        "registry.k8s.io/coredns/coredns",
        default="registry.k8s.io/coredns/coredns",
        min_length=1,
    )
    replicas: int = key("Pods of it, on different nodes where it can be", 2, default=2, ge=1)
    upstream: list[AddressText] = key(
        "Resolvers of all other names; those of its node unless told", ["192.168.10.1"], default=[]
    )
    zones: dict[ZoneName, list[AddressText]] = key(
        "Further zones, each with its resolvers", {"home.arpa": ["192.168.10.1"]}, default={}
    )


class Registry(Section):
    """Where nodes get the images of a registry; they need containerd."""

    mirrors: list[RegistryUrl] = key(
        "Registries to ask first, in this order", ["https://192.168.10.4:5000"], default=[]
    )
    fallback: bool = key(
        "Whether the registry itself is asked where no mirror has an image", False, default=True
    )
    ca: str | None = key(
        "CA of their certificates, where it is no public one: PEM, or the path of a file on the "
        "machine that runs this program",
        "~/registry-ca.pem",
        default=None,
        min_length=1,
    )
    user: str | None = key("User there (HTTP basic)", "nodes", default=None, min_length=1)
    password: SecretStr | None = key("Its password, a secret", {"secure": "…"}, default=None)

    @property
    def lacks_authority(self) -> bool:
        """Whether the file of `ca` is not there, as that of a lab before its start."""
        given = self.ca
        if given is None or "-----BEGIN" in given:
            return False
        return not Path(given).expanduser().exists()

    @property
    def authority_pem(self) -> str | None:
        """The text of `ca`, a placeholder where it lacks. OSError or ValueError if it has none."""
        return f"# PLACEHOLDER: {self.ca} was not there\n" if self.lacks_authority else pem(self.ca)


class Rollout(Section):
    """How nodes are taken down."""

    max_unavailable: int = key(
        "How many nodes may be down at a time while an edit has them provisioned anew",
        1,
        default=1,
        ge=1,
    )
    drain_timeout: int = key(
        "Seconds within which a node's pods must have left it before it goes; 0 does not drain",
        300,
        default=300,
        ge=0,
    )


class Lab(Section):
    """A whole stack configuration."""

    cluster: Cluster
    certificate_authority: CertificateAuthority
    join_gate: JoinGate = JoinGate()
    cilium: Cilium = Cilium()
    bgp: Bgp | None = None
    rollout: Rollout = Rollout()
    workers: dict[WorkerName, Worker] = Field(default={})
    boards: dict[NodeName, Board] = Field(default={})
    provisioning: dict[NodeName, ProvisioningHost] = Field(default={})
    registries: dict[RegistryName, Registry] = Field(default={})
    dns: Dns = Dns()

    @property
    def missing_files(self) -> list[Problem]:
        """What `pulumi up` can't do without; no mistake before it, as a lab's come with the lab."""
        hint = "give PEM, or the path of a file on this machine"
        return [
            Problem(key_path(("registries", name, "ca")), "is not there", registry.ca or "", hint)
            for name, registry in self.registries.items()
            if registry.lacks_authority
        ]

    @property
    def dns_address(self) -> str | None:
        """Where pods ask for names; None where they ask their node's resolvers."""
        if self.dns.mode == "off" or self.dns.address:
            return None if self.dns.mode == "off" else self.dns.address
        if self.dns.mode == "external":
            return None
        network = ipaddress.ip_network(self.cluster.service_cidrs[0])
        return str(network[min(10, network.num_addresses - 1)])

    def model_post_init(self, context: object, /) -> None:
        for name, host in self.provisioning.items():
            host.be_at(f"autojoin:provisioning.{name}")

    def provisioner(self, worker: Worker) -> ProvisioningHost | None:
        """The provisioning host of a worker; the only one there is where it names none."""
        return self.provisioning.get(self.provisioner_name(worker) or "")

    def provisioner_name(self, worker: Worker) -> str | None:
        """The name of that host; None where there is none, or several to choose from."""
        if worker.provisioner or len(self.provisioning) != 1:
            return worker.provisioner
        return next(iter(self.provisioning))

    def provisioners(self) -> list[str]:
        """The names of the hosts that feed a worker."""
        names = {self.provisioner_name(worker) for worker in self.workers.values()}
        return sorted(name for name in names if name)


def inner_model(annotation: Any) -> type[BaseModel] | None:
    """The model inside `list[X]`, `dict[str, X]` and `X | None`, None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = inner_model(argument)
        if found is not None:
            return found
    return None


def is_mapping(annotation: Any) -> bool:
    """Whether a key holds a mapping from free names: `dict[str, X]`, `X | None` included."""
    parts = [annotation, *get_args(annotation)] if get_origin(annotation) is not dict else []
    return get_origin(annotation) is dict or any(get_origin(part) is dict for part in parts)
