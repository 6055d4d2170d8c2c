"""CFSSL's configuration: who may have what signed.

Each profile names the key that a request for it must be authenticated with. The join gate's key is
good for `kubelet` and nothing else; everything else takes the operator's key, which only root and
CFSSL itself can read. `default` is closed as well: CFSSL falls back to it for every unknown
profile, and a missing one would be open.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

# Of the one that is brought where the host's own does not do; made from _SOURCE.
VERSION = "1.6.5"
_SOURCE = Path(__file__).resolve().parents[2] / "tools/go/cfssl"

GATE_KEY = "gate"
OPERATOR_KEY = "operator"
ADDRESS = "127.0.0.1"
PORT = 8888

# Everything but info and authsign; CFSSL wants the exact names.
DISABLED = (
    "sign",
    "newcert",
    "newkey",
    "init_ca",
    "gencrl",
    "revoke",
    "certadd",
    "ocspsign",
    "bundle",
    "scan",
    "scaninfo",
    "certinfo",
    "crl",
    "health",
    "/",
)

_YEAR_HOURS = 8760
# The life of a server's certificate: profile www.
SERVER_HOURS = _YEAR_HOURS
# Anchored: CFSSL searches, it does not match. It reads CN and DNS names only.
_NODE_NAMES = r"^(system:node:)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"


def release() -> str:
    """What the CFSSL that is brought is made from; another one is brought anew."""
    parts = [file.read_bytes() for file in sorted(_SOURCE.iterdir())]
    return f"{VERSION}-{hashlib.sha256(b''.join(parts)).hexdigest()[:12]}"


def configuration(
    *, gate_key: str, operator_key: str, node_certificate_hours: int, status_url: str
) -> dict[str, Any]:
    """CFSSL's config.json. The keys are paths on the host, each a file that holds hex.

    `status_url` is where relying parties ask for OCSP; the CRL is /ca.crl below it.
    """

    def profile(key: str, hours: int, usages: list[str]) -> dict[str, Any]:
        return {
            "auth_key": key,
            "expiry": f"{hours}h",
            "usages": usages,
            "ocsp_url": status_url,
            "crl_url": f"{status_url}/ca.crl",
        }

    return {
        "signing": {
            "default": profile(OPERATOR_KEY, 168, ["signing", "key encipherment", "server auth"]),
            "profiles": {
                "intermediate": {
                    **profile(
                        OPERATOR_KEY,
                        5 * _YEAR_HOURS,
                        ["signing", "key encipherment", "cert sign", "crl sign"],
                    ),
                    "ca_constraint": {"is_ca": True, "max_path_len": 0, "max_path_len_zero": True},
                },
                "ocsp": {
                    **profile(OPERATOR_KEY, 3 * _YEAR_HOURS, ["digital signature", "ocsp signing"]),
                    # Else who checks the signer asks the signer about itself.
                    "ocsp_no_check": True,
                },
                "www": profile(
                    OPERATOR_KEY, SERVER_HOURS, ["signing", "key encipherment", "server auth"]
                ),
                "client": profile(
                    OPERATOR_KEY, _YEAR_HOURS, ["signing", "key encipherment", "client auth"]
                ),
                "kubelet": {
                    **profile(
                        GATE_KEY,
                        node_certificate_hours,
                        ["signing", "key encipherment", "client auth", "server auth"],
                    ),
                    "name_whitelist": _NODE_NAMES,
                },
            },
        },
        "auth_keys": {
            GATE_KEY: {"type": "standard", "key": f"file:{gate_key}"},
            OPERATOR_KEY: {"type": "standard", "key": f"file:{operator_key}"},
        },
    }


def database(path: str) -> dict[str, str]:
    """CFSSL's db-config for the certdb at `path`.

    The time-out makes simultaneous signatures wait for one another rather than fail.
    """
    return {"driver": "sqlite3", "data_source": f"file:{path}?_busy_timeout=15000"}


def serve_command(
    program: str, *, certificate: str, key: str, configuration: str, database: str
) -> tuple[str, ...]:
    """The words of the command that serves `info` and `authsign` on the loopback."""
    return (
        program,
        "serve",
        *("-address", ADDRESS),
        *("-port", str(PORT)),
        *("-ca", certificate),
        *("-ca-key", key),
        *("-config", configuration),
        *("-db-config", database),
        *("-disable", ",".join(DISABLED)),
    )


# As CFSSL 1.6 writes it: without issued_at and its neighbours signing fails.
SCHEMA = """\
PRAGMA journal_mode=WAL;
CREATE TABLE certificates (
  serial_number blob NOT NULL,
  authority_key_identifier blob NOT NULL,
  ca_label blob,
  status blob NOT NULL,
  reason int,
  expiry timestamp,
  revoked_at timestamp,
  issued_at timestamp,
  not_before timestamp,
  metadata blob,
  sans blob,
  common_name blob,
  pem blob NOT NULL,
  PRIMARY KEY (serial_number, authority_key_identifier)
);
CREATE INDEX certificates_common_name ON certificates (common_name);
CREATE TABLE ocsp_responses (
  serial_number blob NOT NULL,
  authority_key_identifier blob NOT NULL,
  body blob NOT NULL,
  expiry timestamp,
  PRIMARY KEY (serial_number, authority_key_identifier),
  FOREIGN KEY (serial_number, authority_key_identifier)
    REFERENCES certificates (serial_number, authority_key_identifier)
);
"""
