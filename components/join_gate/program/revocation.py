"""Revoking in CFSSL's certdb, as CFSSL's own user, so that the database's files stay its own."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import certificates, names
from .errors import GateError
from .settings import Settings
from .store import Serial, Store

_TIMEOUT_SECONDS = 60
_LOCK_SECONDS = 15.0


@contextmanager
def acting_as(user: str) -> Iterator[None]:
    """Files made within belong to `user`. Does nothing for a caller who is not root."""
    if os.geteuid() != 0:
        yield
        return
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise GateError(f"user {user}: not on this host; install the join gate anew") from None
    os.setgroups([])
    os.setegid(entry.pw_gid)
    os.seteuid(entry.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def valid_certificates(settings: Settings, name: str) -> list[Serial]:
    """Every certificate of the node that the certdb holds as good.

    Found by common name: so one that was signed but never recorded by the gate counts too.
    """
    rows = _rows(
        settings,
        "SELECT serial_number, authority_key_identifier FROM certificates"
        " WHERE common_name = ? AND status = 'good'",
        names.COMMON_NAME_PREFIX + name,
    )
    return [Serial(_text(number), _text(key)) for number, key in rows]


def revoked_certificates(settings: Settings) -> list[dict[str, str]]:
    """Every revoked certificate of a node that has not expired: what the API server must bar.

    `sha256` is the fingerprint in hex, `notAfter` RFC 3339 in UTC; in a stable order.
    """
    rows = _rows(
        settings,
        "SELECT common_name, pem, expiry FROM certificates WHERE common_name LIKE ?"
        " AND status = 'revoked' AND expiry > datetime('now') ORDER BY rowid",
        names.COMMON_NAME_PREFIX + "%",
    )
    return [
        {
            "node": _text(common_name)[len(names.COMMON_NAME_PREFIX) :],
            "sha256": hashlib.sha256(certificates.from_pem(_text(pem))).hexdigest(),
            # CFSSL writes UTC, as `2027-01-31 12:00:00+00:00`.
            "notAfter": _text(expiry)[:19].replace(" ", "T") + "Z",
        }
        for common_name, pem, expiry in rows
    ]


def _rows(settings: Settings, query: str, *values: str) -> list[tuple[Any, ...]]:
    """What the certdb answers, read as the user that owns it."""
    with acting_as(settings.authorityUser):
        path = _database_path(settings.certificateDatabase)
        try:
            database = sqlite3.connect(path, timeout=_LOCK_SECONDS)
            try:
                return database.execute(query, values).fetchall()
            finally:
                database.close()
        except sqlite3.Error as error:
            raise GateError(f"{path}: cannot be read: {error}") from None


def revoke_marked(settings: Settings, store: Store, reason: str) -> int:
    """Revoke what the store has marked; the number of certificates. Safe to repeat."""
    marked = store.to_revoke()
    for serial in marked:
        _revoke(settings, serial, reason)
        with acting_as(settings.user):
            store.revoked(serial)
    return len(marked)


def _revoke(settings: Settings, serial: Serial, reason: str) -> None:
    command = [
        settings.cfssl,
        "revoke",
        *("-db-config", settings.certificateDatabase),
        *("-serial", serial.number),
        *("-aki", serial.authority_key),
        *("-reason", reason),
    ]
    as_user = settings.authorityUser if os.geteuid() == 0 else None
    try:
        result = subprocess.run(
            command,
            user=as_user,
            group=pwd.getpwnam(as_user).pw_gid if as_user else None,
            extra_groups=[] if as_user else None,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
        )
    except (OSError, KeyError, subprocess.TimeoutExpired) as error:
        raise GateError(f"{settings.cfssl} revoke: {error}") from None
    output = (result.stderr + result.stdout).strip()
    if result.returncode != 0 and "not found" not in output:
        last = output.splitlines()[-1] if output else f"exit status {result.returncode}"
        raise GateError(f"certificate {serial.number}: cannot be revoked: {last[:300]}")


def _database_path(configuration: str) -> str:
    try:
        source = str(json.loads(Path(configuration).read_text())["data_source"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise GateError(f"{configuration}: cannot be read: {error}") from None
    if source.startswith("file:"):
        source = source[len("file:") :]
    return source.partition("?")[0]


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
