"""The join gate in front of the certificate authority: the one thing that nodes talk to."""

from __future__ import annotations

import pulumi
import pulumi_tls as tls

from components.certificate_authority import cfssl
from components.certificate_authority.certificate_request import certificate_request, renewal
from components.certificate_authority.component import CertificateAuthority
from components.join_gate import installation as render
from components.shell import remote
from stack.models import JoinGate as Settings

_COMMON_NAME = "autojoin join gate"
# The PEM of the stack's secret, and that of the authority's certificate.
SeedValues = tuple[str, str]


class JoinGate(pulumi.ComponentResource):
    """The gate's listener, and the secret from which every node's join key is derived.

    `url` is known in preview; `secret` is a PEM that never leaves the state but as keys derived
    from it. `seed_values` are what every worker is rendered from: that PEM, a secret, and the
    authority's certificate. `shown_seed_values` are the same, for what tells nothing of the secret:
    a hash over a join key's 256 random bits, a keyed digest. `ready` is the resource to depend on.
    """

    def __init__(
        self,
        name: str,
        authority: CertificateAuthority,
        settings: Settings,
        opts: pulumi.ResourceOptions | None = None,
    ):
        super().__init__("autojoin:index:JoinGate", name, None, opts)
        self.authority = authority
        self.settings = settings
        self.host = authority.settings.host
        self.url = render.url(authority.host)
        key, request = certificate_request(name, _COMMON_NAME, parent=self)
        renewed = renewal(name, _COMMON_NAME, key, cfssl.SERVER_HOURS, parent=self)
        self.ready = remote.run(
            f"{name}-service",
            self.host,
            create=render.install_command(authority.host),
            stdin=self._input(key, request, renewed),
            delete=render.remove_command(authority.host),
            parent=self,
            depends_on=[authority.ready],
        )
        self.secret = tls.PrivateKey(
            f"{name}-join-secret",
            algorithm="ED25519",
            opts=pulumi.ResourceOptions(parent=self),
        ).private_key_pem
        values = pulumi.Output.all(pulumi.Output.secret(self.secret), authority.certificate_pem)
        self.seed_values = values.apply(lambda both: (both[0], both[1]))
        self.shown_seed_values = pulumi.Output.unsecret(self.seed_values)
        self.register_outputs({"url": self.url})

    def _input(
        self, key: tls.PrivateKey, request: tls.CertRequest, renewed: pulumi.Output[str]
    ) -> pulumi.Output[str]:
        host, allow_tls12 = self.authority.host, self.settings.allow_tls12
        values = pulumi.Output.all(key.private_key_pem, request.cert_request_pem, renewed)
        return values.apply(
            lambda known: render.install_input(host, *known, allow_tls12=allow_tls12)
        )
