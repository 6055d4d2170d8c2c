"""The certificate authority on its host."""

from __future__ import annotations

import base64
import datetime
import hashlib
from dataclasses import dataclass

import pulumi
import pulumi_tls as tls
from pulumi_command.remote import Command

from components import from_lab
from components.certificate_authority import installation as render
from components.certificate_authority import lifetime
from components.certificate_authority.certificate_request import certificate_request
from components.shell import remote
from stack.models import CertificateAuthority as Settings


@dataclass
class CertificateAuthorityArgs:
    """The CA host, and where certificate and key come from."""

    settings: Settings


class CertificateAuthority(pulumi.ComponentResource):
    """CFSSL with its certdb on the CA host, on loopback only; OCSP and the CRL for everybody.

    `certificate_pem` is what nodes pin; it comes from the host, so it is unknown until the first
    `pulumi up`. `ready` is the resource to depend on.
    """

    def __init__(
        self,
        name: str,
        args: CertificateAuthorityArgs,
        opts: pulumi.ResourceOptions | None = None,
    ):
        super().__init__("autojoin:index:CertificateAuthority", name, None, opts)
        self.settings = settings = args.settings
        self.host = from_lab.authority_host(settings)
        pair = self._pair(name)
        signer = certificate_request(f"{name}-ocsp", "OCSP signer", parent=self)
        self.ready = remote.run(
            f"{name}-cfssl",
            settings.host,
            create=render.install_command(self.host),
            stdin=self._input(*signer, pair.stdout),
            delete=render.remove_command(self.host),
            quiet=True,
            parent=self,
            depends_on=[pair],
        )
        # Not of `ready`: whatever changes there, preview then knows that nothing changes for nodes.
        self.certificate_pem: pulumi.Output[str] = pair.stdout
        self.certificate_pem.apply(self._warn)
        self.fingerprint = self.certificate_pem.apply(fingerprint)
        self.register_outputs({"fingerprint": self.fingerprint})

    def _warn(self, certificate_pem: str) -> None:
        now = datetime.datetime.now(datetime.UTC)
        said = lifetime.warning(certificate_pem, self.settings.node_certificate_hours, now)
        if said:
            pulumi.log.warn(said, self)

    def _pair(self, name: str) -> Command:
        """The CA itself; with `source: generate` protected. There is no way to delete it."""
        return remote.run(
            f"{name}-pair",
            self.settings.host,
            create=render.pair_command(self.host),
            stdin=render.pair_input(self.host),
            quiet=True,
            parent=self,
            protect=self.settings.source == "generate",
        )

    def _input(
        self, key: tls.PrivateKey, request: tls.CertRequest, authority_pem: pulumi.Output[str]
    ) -> pulumi.Output[str]:
        values = pulumi.Output.all(key.private_key_pem, request.cert_request_pem, authority_pem)
        return values.apply(lambda pems: render.install_input(self.host, *pems))


def fingerprint(certificate_pem: str) -> str:
    """SHA-256 of a certificate in DER, as `openssl x509 -fingerprint -sha256` writes it."""
    body = "".join(line for line in certificate_pem.splitlines() if not line.startswith("-"))
    digits = hashlib.sha256(base64.b64decode(body)).hexdigest().upper()
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))
