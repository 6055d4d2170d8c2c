"""Stand-in for Pulumi's `tls` plugin: PrivateKey, CertRequest, SelfSignedCert, LocallySignedCert.

`cryptography` is loaded when something is made, not for a preview.
"""

from __future__ import annotations

import datetime
from typing import Any, ClassVar, NamedTuple

from tools.plugins.base import (
    CheckFailures,
    Created,
    Difference,
    Handler,
    Properties,
    Provider,
    Request,
    State,
    default_difference,
    main,
)
from tools.plugins.values import UNKNOWN, Value

ALGORITHMS = ("RSA", "ECDSA", "ED25519")
CURVES = ("P224", "P256", "P384", "P521")
USES = (
    "any_extended", "cert_signing", "client_auth", "code_signing", "content_commitment",
    "crl_signing", "data_encipherment", "decipher_only", "digital_signature", "email_protection",
    "encipher_only", "ipsec_end_system", "ipsec_tunnel", "ipsec_user", "key_agreement",
    "key_encipherment", "microsoft_commercial_code_signing", "microsoft_kernel_code_signing",
    "microsoft_server_gated_crypto", "netscape_server_gated_crypto", "ocsp_signing",
    "server_auth", "timestamping",
)  # fmt: skip
LEAST_RSA_BITS = 1024


class Input(NamedTuple):
    """One input: its type, the values it may have, whether it must be there."""

    type: type
    choices: tuple[str, ...] = ()
    required: bool = False


_NAMES = {"dnsNames": Input(list), "ipAddresses": Input(list), "uris": Input(list),
          "subject": Input(dict)}  # fmt: skip
_CERTIFICATE = {
    "allowedUses": Input(list, USES, required=True),
    "validityPeriodHours": Input(int, required=True),
    "earlyRenewalHours": Input(int),
    "isCaCertificate": Input(bool),
    "maxPathLength": Input(int),
    "setSubjectKeyId": Input(bool),
}
_CERTIFICATE_DEFAULTS: Properties = {
    "earlyRenewalHours": 0,
    "isCaCertificate": False,
    "maxPathLength": -1,
    "setSubjectKeyId": False,
}
_CERTIFICATE_COMPUTED = ("certPem", "validityStartTime", "validityEndTime")


class Material(Handler):
    """A thing that is made once from its inputs; another input makes another thing."""

    inputs: ClassVar[dict[str, Input]]
    defaults: ClassVar[Properties]
    computed: tuple[str, ...]
    updated_in_place: frozenset[str] = frozenset()

    def make(self, inputs: Properties) -> tuple[str, Properties]:
        """The id and the computed outputs. Raises Failure."""
        raise NotImplementedError

    def check(self, request: Request) -> Properties:
        failures = [
            (name, "missing required property")
            for name, each in self.inputs.items()
            if each.required and request.inputs.get(name) is None
        ]
        for name, value in request.inputs.items():
            failures += [(name, reason) for reason in self._wrong(name, value)]
        if failures:
            raise CheckFailures(*failures)
        return request.inputs

    def _wrong(self, name: str, value: Value) -> list[str]:
        if name not in self.inputs:
            return [f"not served by this stand-in; served: {', '.join(sorted(self.inputs))}"]
        wanted = self.inputs[name]
        if value is None or value is UNKNOWN:
            return []
        if not isinstance(value, wanted.type) or isinstance(value, bool) != (wanted.type is bool):
            return [f"wrong type: {wanted.type.__name__} is needed"]
        if not wanted.choices:
            return []
        given = value if isinstance(value, list) else [value]
        return [
            f"{each!r} is not one of {', '.join(wanted.choices)}"
            for each in given
            if each is not UNKNOWN and each not in wanted.choices
        ]

    def complete(self, inputs: Properties) -> Properties:
        """The inputs with the defaults."""
        return {**self.defaults, **{key: each for key, each in inputs.items() if each is not None}}

    def diff(self, request: Request) -> Difference:
        request.old_inputs = self.complete(request.old_inputs)
        request.inputs = self.complete(request.inputs)
        return default_difference(request, frozenset(self.inputs) - self.updated_in_place)

    def create(self, request: Request) -> Created:
        inputs = self.complete(request.inputs)
        if request.preview:
            return Created("", {**inputs, **dict.fromkeys(self.computed, UNKNOWN)})
        identifier, outputs = self.make(inputs)
        return Created(identifier, {**inputs, **outputs})

    def update(self, request: Request) -> Properties:
        return {**request.old_outputs, **self.complete(request.inputs)}


class PrivateKey(Material):
    """tls:index/privateKey:PrivateKey"""

    inputs: ClassVar[dict[str, Input]] = {
        "algorithm": Input(str, ALGORITHMS, required=True),
        "ecdsaCurve": Input(str, CURVES),
        "rsaBits": Input(int),
    }
    defaults: ClassVar[Properties] = {"ecdsaCurve": "P224", "rsaBits": 2048}
    computed = (
        "privateKeyPem", "privateKeyPemPkcs8", "privateKeyOpenssh", "publicKeyPem",
        "publicKeyOpenssh", "publicKeyFingerprintMd5", "publicKeyFingerprintSha256",
    )  # fmt: skip
    secret_outputs = frozenset({"privateKeyPem", "privateKeyPemPkcs8", "privateKeyOpenssh"})

    def check(self, request: Request) -> Properties:
        inputs = super().check(request)
        bits = inputs.get("rsaBits")
        if isinstance(bits, int) and bits < LEAST_RSA_BITS:
            raise CheckFailures(("rsaBits", f"at least {LEAST_RSA_BITS} are needed, got {bits}"))
        return inputs

    def make(self, inputs: Properties) -> tuple[str, Properties]:
        from tools.plugins import tls_material

        key = tls_material.generate_key(
            inputs["algorithm"], inputs["rsaBits"], inputs["ecdsaCurve"]
        )
        return tls_material.key_outputs(key)


class CertificateRequest(Material):
    """tls:index/certRequest:CertRequest"""

    inputs: ClassVar[dict[str, Input]] = {**_NAMES, "privateKeyPem": Input(str, required=True)}
    defaults: ClassVar[Properties] = {}
    computed = ("certRequestPem", "keyAlgorithm")
    secret_outputs = frozenset({"privateKeyPem"})

    def make(self, inputs: Properties) -> tuple[str, Properties]:
        from tools.plugins import tls_material

        return tls_material.certificate_request(inputs)


class Certificate(Material):
    """What self-signed and locally signed certificates have in common: renewal."""

    updated_in_place = frozenset({"earlyRenewalHours"})

    def check(self, request: Request) -> Properties:
        inputs = super().check(request)
        for name in ("validityPeriodHours", "earlyRenewalHours"):
            hours = inputs.get(name)
            if isinstance(hours, int) and hours < 0:
                raise CheckFailures((name, f"at least 0 hours are needed, got {hours}"))
        return inputs

    def diff(self, request: Request) -> Difference:
        found = super().diff(request)
        hours = request.inputs["earlyRenewalHours"]
        if not found.replaces and hours is not UNKNOWN and due(request.old_outputs, hours):
            found.paths["readyForRenewal"] = "UPDATE"
            found.replaces.append("readyForRenewal")
        return found

    def create(self, request: Request) -> Created:
        created = super().create(request)
        if request.preview:
            created.outputs["readyForRenewal"] = False
        return created

    def read(self, request: Request) -> State | None:
        found = super().read(request)
        if found is not None:
            hours = found.outputs.get("earlyRenewalHours") or 0
            found.outputs["readyForRenewal"] = due(found.outputs, hours)
        return found


def due(outputs: Properties, early_hours: float) -> bool:
    """Whether a certificate's time for renewal has come."""
    try:
        end = datetime.datetime.fromisoformat(outputs["validityEndTime"])
    except (KeyError, TypeError, ValueError):
        return False
    return datetime.datetime.now(datetime.UTC) >= end - datetime.timedelta(hours=early_hours)


class SelfSignedCertificate(Certificate):
    """tls:index/selfSignedCert:SelfSignedCert"""

    inputs: ClassVar[dict[str, Input]] = {
        **_NAMES,
        **_CERTIFICATE,
        "privateKeyPem": Input(str, required=True),
        "setAuthorityKeyId": Input(bool),
    }
    defaults: ClassVar[Properties] = {**_CERTIFICATE_DEFAULTS, "setAuthorityKeyId": False}
    computed = (*_CERTIFICATE_COMPUTED, "keyAlgorithm")
    secret_outputs = frozenset({"privateKeyPem"})

    def make(self, inputs: Properties) -> tuple[str, Properties]:
        from tools.plugins import tls_material

        return tls_material.self_signed(inputs)


class LocallySignedCertificate(Certificate):
    """tls:index/locallySignedCert:LocallySignedCert"""

    inputs: ClassVar[dict[str, Input]] = {
        **_CERTIFICATE,
        "certRequestPem": Input(str, required=True),
        "caCertPem": Input(str, required=True),
        "caPrivateKeyPem": Input(str, required=True),
    }
    defaults: ClassVar[Properties] = _CERTIFICATE_DEFAULTS
    computed = (*_CERTIFICATE_COMPUTED, "caKeyAlgorithm")
    secret_outputs = frozenset({"caPrivateKeyPem"})

    def make(self, inputs: Properties) -> tuple[str, Properties]:
        from tools.plugins import tls_material

        return tls_material.locally_signed(inputs)


HANDLERS: dict[str, Any] = {
    "tls:index/privateKey:PrivateKey": PrivateKey(),
    "tls:index/certRequest:CertRequest": CertificateRequest(),
    "tls:index/selfSignedCert:SelfSignedCert": SelfSignedCertificate(),
    "tls:index/locallySignedCert:LocallySignedCert": LocallySignedCertificate(),
}


def provider() -> Provider:
    """The plugin."""
    return Provider("tls", HANDLERS)


if __name__ == "__main__":
    main("tls", "", provider())
