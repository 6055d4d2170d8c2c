"""The lab's certificates and keys, as a person has them who built the control plane by hand.

Made once and kept in the state folder. Every private file is 0600, its folder 0700.
"""

from __future__ import annotations

import base64
import datetime
import os
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lab.place import Place

YEARS = 10
PRIVATE = serialization.PrivateFormat.TraditionalOpenSSL
NO_PASSWORD = serialization.NoEncryption()


@dataclass(frozen=True)
class Identity:
    """A certificate to make: whom it names (`groups` become O); of a server, where it answers."""

    file: str
    name: str
    groups: tuple[str, ...] = ()
    server_names: tuple[str, ...] = ()
    server_addresses: tuple[str, ...] = ()


def folder(place: Place) -> Path:
    return place.state / "pki"


def identities(place: Place) -> tuple[Identity, ...]:
    """Every certificate of the control plane."""
    dns = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
           "kubernetes.default.svc.cluster.local")  # fmt: skip
    service = place.addresses.services[1]  # of the Service `kubernetes`
    addresses = (str(place.hypervisor_address), str(service), "127.0.0.1")
    return (
        Identity("kube-apiserver", "kube-apiserver", (), dns, addresses),
        Identity("kubelet-client", "kube-apiserver-kubelet-client", ("system:masters",)),
        # By it alone an aggregated API server believes whom the API server speaks for.
        Identity("front-proxy-client", "front-proxy-client"),
        Identity("kube-controller-manager", "system:kube-controller-manager"),
        Identity("admin", "admin", ("system:masters",)),
        Identity("kube-scheduler", "system:kube-scheduler"),
        Identity("registry", "registry", (), ("localhost",), (str(place.hypervisor_address),)),
    )


def ensure(place: Place) -> Path:
    """Make whatever is missing of the lab's keys, certificates and kubeconfigs; their folder."""
    target = folder(place)
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    ensure_authority(target)
    for identity in identities(place):
        ensure_certificate(target, identity)
    ensure_service_account_key(target)
    for name in ("admin", "kube-controller-manager", "kube-scheduler"):
        ensure_kubeconfig(target, name, place.api_server)
    ensure_link(place.state / "kubeconfig", "pki/admin.kubeconfig")
    for name in ("client", "hypervisor-host", "authority-host"):
        ensure_ssh_key(target, name)
    return target


def write_once(path: Path, content: bytes, mode: int) -> None:
    """Write `content` whole or not at all, readable by nobody else even in between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)


def pair_exists(target: Path, name: str) -> bool:
    return (target / f"{name}.pem").exists() and (target / f"{name}-key.pem").exists()


def write_pair(target: Path, name: str, certificate: x509.Certificate,
               key: ec.EllipticCurvePrivateKey) -> None:  # fmt: skip
    encoded = key.private_bytes(serialization.Encoding.PEM, PRIVATE, NO_PASSWORD)
    write_once(target / f"{name}-key.pem", encoded, 0o600)
    public = certificate.public_bytes(serialization.Encoding.PEM)
    write_once(target / f"{name}.pem", public, 0o644)


def builder(subject: x509.Name, issuer: x509.Name,
            key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:  # fmt: skip
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
    )


def key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def ensure_authority(target: Path) -> None:
    if pair_exists(target, "ca"):
        return
    for stale in target.glob("*.pem"):  # nothing signed by a lost authority is of use
        stale.unlink()
    for stale in target.glob("*.kubeconfig"):
        stale.unlink()
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes-ca")])
    certificate = (
        builder(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_pair(target, "ca", certificate, key)


def load_authority(target: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = x509.load_pem_x509_certificate((target / "ca.pem").read_bytes())
    key = serialization.load_pem_private_key((target / "ca-key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return certificate, key


def ensure_certificate(target: Path, identity: Identity) -> None:
    if pair_exists(target, identity.file):
        return
    authority, authority_key = load_authority(target)
    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name) for name in identity.groups]
    attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, identity.name))
    server = bool(identity.server_names or identity.server_addresses)
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    issuer_key = authority_key.public_key()
    unsigned = (
        builder(x509.Name(attributes), authority.subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
        )
    )
    if server:
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in identity.server_names]
        names += [x509.IPAddress(IPv4Address(text)) for text in identity.server_addresses]
        unsigned = unsigned.add_extension(x509.SubjectAlternativeName(names), critical=False)
    write_pair(target, identity.file, unsigned.sign(authority_key, hashes.SHA256()), key)


def ensure_service_account_key(target: Path) -> None:
    """The key pair that signs service-account tokens."""
    private, public = target / "service-account.key", target / "service-account.pub"
    if private.exists() and public.exists():
        return
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    encoded = key.private_bytes(serialization.Encoding.PEM, PRIVATE, NO_PASSWORD)
    write_once(private, encoded, 0o600)
    information = serialization.PublicFormat.SubjectPublicKeyInfo
    write_once(public, key.public_key().public_bytes(serialization.Encoding.PEM, information),
               0o644)  # fmt: skip


def ensure_kubeconfig(target: Path, name: str, server: str) -> None:
    """A kubeconfig that stands alone, 0600: NAME.kubeconfig."""
    path = target / f"{name}.kubeconfig"
    if path.exists():
        return

    def data(file: str) -> str:
        return base64.b64encode((target / file).read_bytes()).decode()

    cluster = {"server": server, "certificate-authority-data": data("ca.pem")}
    user = {
        "client-certificate-data": data(f"{name}.pem"),
        "client-key-data": data(f"{name}-key.pem"),
    }
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "autojoin", "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": "autojoin", "context": {"cluster": "autojoin", "user": name}}],
        "current-context": "autojoin",
    }
    write_once(path, yaml.safe_dump(document, sort_keys=False).encode(), 0o600)


def ensure_link(path: Path, destination: str) -> None:
    if not path.is_symlink():
        path.unlink(missing_ok=True)
        path.symlink_to(destination)


def ensure_ssh_key(target: Path, name: str) -> None:
    """An ed25519 pair in OpenSSH's format: ssh-NAME and ssh-NAME.pub."""
    private, public = target / f"ssh-{name}", target / f"ssh-{name}.pub"
    if private.exists() and public.exists():
        return
    key = ed25519.Ed25519PrivateKey.generate()
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, NO_PASSWORD
    )
    write_once(private, encoded, 0o600)
    line = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    write_once(public, line + b"\n", 0o644)


def ssh_public_key(place: Place, name: str) -> str:
    """`ssh-ed25519 AAAA…` of one of the lab's pairs: client, hypervisor-host, authority-host."""
    return (folder(place) / f"ssh-{name}.pub").read_text().strip()


def ssh_private_key_path(place: Place, name: str = "client") -> Path:
    return folder(place) / f"ssh-{name}"
