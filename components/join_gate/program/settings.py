"""The gate's settings: gate.json, written by components/join_gate/installation.py."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

from .errors import GateError

DEFAULT_PATH = "/etc/autojoin/join-gate/gate.json"


@dataclass(frozen=True)
class Settings:
    """All paths are absolute; hours are whole hours.

    `listen` is an address to bind, `::` for every address of both families.
    `minimumTls` is 1.3, or 1.2 for nodes that have nothing newer. `authority` holds the
    certificates of every CA that is trusted, the one that signs first; `trust` what nodes are told
    of it, signed. `certificateDatabase` is CFSSL's -db-config file. `responderPort` is where the
    loopback is asked what the certdb holds as revoked; with 0 nothing is renewed.
    """

    listen: str
    port: int
    minimumTls: str
    certificate: str
    key: str
    authority: str
    database: str
    user: str
    upstreamHost: str
    upstreamPort: int
    upstreamKey: str
    nodeCertificateHours: int
    authorityUser: str
    certificateDatabase: str
    cfssl: str
    responderPort: int
    trust: str


def load(path: str) -> Settings:
    """Read the settings at `path`; raise GateError with the path and the key that is wrong."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise GateError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        data = json.loads(text)
    except ValueError as error:
        raise GateError(f"{path}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise GateError(f"{path}: must be a JSON object, found {type(data).__name__}")
    known = {field.name: (int if field.type == "int" else str) for field in fields(Settings)}
    data = {"responderPort": 0, "trust": "", **data}  # older than renewals, and than two CAs
    for name in sorted(set(data) ^ set(known)):
        raise GateError(f"{path}: {name}: {'unknown key' if name in data else 'missing'}")
    for name, kind in known.items():
        if type(data[name]) is not kind:
            raise GateError(f"{path}: {name}: must be {kind.__name__}, found {data[name]!r}")
    if data["minimumTls"] not in ("1.2", "1.3"):
        raise GateError(f"{path}: minimumTls: must be 1.3 or 1.2, found {data['minimumTls']!r}")
    return Settings(**data)
