"""The certificate authority on its host."""

from __future__ import annotations

import base64
import hashlib

import pulumi

from components import remote
from config.models import CertificateAuthority as Settings
from render import certificate_authority as render
from render import from_lab


class CertificateAuthority(pulumi.ComponentResource):
    """CFSSL with its certdb on the CA host, on loopback only.

    `certificate_pem` is what nodes pin; it comes from the host, so it is unknown until the first
    `pulumi up`. `ready` is the resource to depend on.
    """

    def __init__(self, name: str, settings: Settings, opts: pulumi.ResourceOptions | None = None):
        super().__init__("autojoin:index:CertificateAuthority", name, None, opts)
        self.settings = settings
        self.host = from_lab.authority_host(settings)
        self.ready = remote.run(
            f"{name}-cfssl",
            settings.host,
            create=render.install_command(self.host),
            stdin=render.install_input(self.host),
            delete=render.remove_command(self.host),
            quiet=True,
            parent=self,
        )
        self.certificate_pem: pulumi.Output[str] = self.ready.stdout
        self.fingerprint = self.certificate_pem.apply(fingerprint)
        self.register_outputs({"fingerprint": self.fingerprint})


def fingerprint(certificate_pem: str) -> str:
    """SHA-256 of a certificate in DER, as `openssl x509 -fingerprint -sha256` writes it."""
    body = "".join(line for line in certificate_pem.splitlines() if not line.startswith("-"))
    digits = hashlib.sha256(base64.b64decode(body)).hexdigest().upper()
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))
