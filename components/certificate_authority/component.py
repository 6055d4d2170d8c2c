"""The certificate authority on its host."""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
from dataclasses import dataclass

import pulumi
import pulumi_tls as tls
from pulumi_command.remote import Command

from components import from_lab
from components.certificate_authority import cfssl_program, lifetime
from components.certificate_authority import installation as render
from components.certificate_authority.certificate_request import certificate_request
from components.shell import reach, remote
from components.shell.reach import once
from components.shell.ssh import SshError
from stack.models import CertificateAuthority as Settings


@dataclass
class CertificateAuthorityArgs:
    """The CA host, and where certificate and key come from."""

    settings: Settings


class CertificateAuthority(pulumi.ComponentResource):
    """CFSSL with its certdb on the CA host, on loopback only; OCSP and the CRL for everybody.

    `certificate_pem` is what nodes pin, with that of a CA that is trusted beside it behind it; it
    comes from the host, so it is unknown until the first `pulumi up`. `ready` is the resource to
    depend on. `paths` are the certificates' on the host.
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
        program = pulumi.ResourceHook(
            f"{name}: CFSSL on {settings.host.address}", once(self._settle)
        )
        fit = pulumi.ResourceHookBinding(before_create=[program], before_update=[program])
        pair = self._pair(name, fit)
        signer = certificate_request(f"{name}-ocsp", "OCSP signer", parent=self)
        self.ready = remote.run(
            f"{name}-cfssl",
            settings.host,
            create=render.install_command(self.host),
            stdin=self._input(*signer, pair.stdout),
            delete=render.remove_command(self.host),
            quiet=True,
            hooks=fit,
            parent=self,
            depends_on=[pair],
        )
        # Not of `ready`: whatever changes there, preview then knows that nothing changes for nodes.
        self.certificate_pem: pulumi.Output[str] = pair.stdout
        self.certificate_pem.apply(self._warn)
        also = [self.host.also[0]] if self.host.also[0] else []
        self.paths = [render.pair_paths(self.host)[0], *also]
        self.fingerprint = self.certificate_pem.apply(fingerprint)
        self.register_outputs({"fingerprint": self.fingerprint})

    def _warn(self, certificate_pem: str) -> None:
        now = datetime.datetime.now(datetime.UTC)
        said = lifetime.warning(certificate_pem, self.settings.node_certificate_hours, now)
        if said:
            pulumi.log.warn(said, self)

    async def _settle(self) -> None:
        """Before the first command that needs it: a CFSSL that does what is asked of it."""
        host = self.settings.host
        there = reach.with_key(host, remote.private_key(host))

        loop = asyncio.get_running_loop()

        def tell(line: str) -> None:
            loop.call_soon_threadsafe(pulumi.log.info, line, self)

        try:
            await asyncio.to_thread(cfssl_program.settle, there, self.host, tell)
        except SshError as error:
            raise pulumi.RunError(str(error)) from None

    def _pair(self, name: str, fit: pulumi.ResourceHookBinding) -> Command:
        """The CA itself; with `source: generate` protected. There is no way to delete it."""
        return remote.run(
            f"{name}-pair",
            self.settings.host,
            create=render.pair_command(self.host),
            stdin=render.pair_input(self.host),
            quiet=True,
            hooks=fit,
            parent=self,
            protect=self.settings.source == "generate",
        )

    def _input(
        self, key: tls.PrivateKey, request: tls.CertRequest, authority_pem: pulumi.Output[str]
    ) -> pulumi.Output[str]:
        values = pulumi.Output.all(key.private_key_pem, request.cert_request_pem, authority_pem)
        return values.apply(lambda pems: render.install_input(self.host, *pems))


def fingerprint(certificate_pem: str) -> str:
    """SHA-256 of the first certificate in DER, as `openssl x509 -fingerprint -sha256` writes it."""
    first = certificate_pem.partition("-----END")[0]
    body = "".join(line for line in first.splitlines() if not line.startswith("-"))
    digits = hashlib.sha256(base64.b64decode(body)).hexdigest().upper()
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))
