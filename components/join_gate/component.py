"""The join gate in front of the certificate authority: the one thing that nodes talk to."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pulumi
import pulumi_tls as tls

from components.certificate_authority import cfssl
from components.certificate_authority.certificate_request import certificate_request, renewal
from components.certificate_authority.component import CertificateAuthority
from components.join_gate import installation as render
from components.shell import remote
from components.workers.hardware import Hardware
from components.workers.marks import Marks
from components.workers.protection import Protection
from stack.models import JoinGate as Settings

_COMMON_NAME = "autojoin join gate"
# The PEM of the stack's secret, and that of the authority's certificate.
SeedValues = tuple[str, str]


@dataclass
class JoinGateArgs:
    """The authority that the gate stands in front of, and the gate's settings."""

    authority: CertificateAuthority
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True)
class Registration:
    """A node that the gate was told of; `done` is the resource to depend on."""

    node: Hardware
    gate: JoinGate
    done: pulumi.Resource


class JoinGate(pulumi.ComponentResource):
    """The gate's listener, and the secret from which every node's join key is derived.

    `url` is known in preview; `secret` is a PEM that never leaves the state but as keys derived
    from it. `seed_values` are what every worker is rendered from: that PEM, a secret, and the
    authority's certificate. `shown_seed_values` and `shown_secret` are the same, for what tells
    nothing of the secret: a hash over a join key's 256 random bits, a keyed digest. `ready` is the
    resource to depend on.
    """

    def __init__(self, name: str, args: JoinGateArgs, opts: pulumi.ResourceOptions | None = None):
        super().__init__("autojoin:index:JoinGate", name, None, opts)
        self.marks = Marks(name)
        self._protection = Protection(name)
        self.settings = args.settings
        self.authority = authority = args.authority
        self.host = authority.settings.host
        self._place = replace(authority.host, gate_port=self.settings.port)
        self.url = render.url(self._place)
        key, request = certificate_request(name, _COMMON_NAME, parent=self)
        renewed = renewal(name, _COMMON_NAME, key, cfssl.SERVER_HOURS, parent=self)
        self.ready = remote.run(
            f"{name}-service",
            self.host,
            create=render.install_command(self._place),
            stdin=self._input(key, request, renewed),
            delete=render.remove_command(authority.host),
            parent=self,
            depends_on=[authority.ready],
        )
        join_secret = tls.PrivateKey(
            f"{name}-join-secret",
            algorithm="ED25519",
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.secret = pulumi.Output.secret(join_secret.private_key_pem)
        values = pulumi.Output.all(self.secret, authority.certificate_pem)
        self.seed_values = values.apply(lambda both: (both[0], both[1]))
        self.shown_seed_values = pulumi.Output.unsecret(self.seed_values)
        self.shown_secret = pulumi.Output.unsecret(self.secret)
        self.register_outputs({"url": self.url})

    def register(self, name: str, node: Hardware) -> Registration:
        """Admit `node`: a child of the gate, NAME-registration. Its removal revokes."""
        hours = self.settings.join_key_hours
        done = remote.run(
            f"{name}-registration",
            self.host,
            create=render.register_command(self.authority.host, node.node),
            stdin=self.secret.apply(lambda pem: node.register_input(node.named(pem), hours)),
            delete=self.identity(node).apply(
                lambda identity: render.remove_node_command(
                    self.authority.host, node.node, identity
                )
            ),
            quiet=True,
            protect=node.settings.protect,
            hooks=pulumi.ResourceHookBinding.merge(
                self.marks.of(name, node), self._protection.of(node.settings.protect)
            ),
            parent=self,
            depends_on=[self.ready],
        )
        return Registration(node, self, done)

    def identity(self, node: Hardware) -> pulumi.Output[str]:
        """Known in preview also where the authority's certificate is not, and no secret."""
        return self.shown_secret.apply(lambda pem: node.named(pem).identity)

    def _input(
        self, key: tls.PrivateKey, request: tls.CertRequest, renewed: pulumi.Output[str]
    ) -> pulumi.Output[str]:
        host, allow_tls12 = self._place, self.settings.allow_tls12
        values = pulumi.Output.all(key.private_key_pem, request.cert_request_pem, renewed)
        return values.apply(
            lambda known: render.install_input(host, *known, allow_tls12=allow_tls12)
        )
