"""The gate's own state: nodes, their events, and the revocations that are still to be done.

SQLite in WAL mode: the service and the commands (register, remove, status) share the file. A
transaction is on the disk when it has ended.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import GateError

EVENTS_KEPT = 256
_LOCK_SECONDS = 15.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS nodes (
  name TEXT PRIMARY KEY,
  addresses TEXT NOT NULL,
  generation INTEGER NOT NULL,
  identity TEXT NOT NULL,
  join_key BLOB NOT NULL,
  status_token BLOB NOT NULL,
  expires_at REAL NOT NULL,
  public_key TEXT,
  certificate TEXT,
  joined_at REAL
);
CREATE TABLE IF NOT EXISTS used (
  node TEXT PRIMARY KEY,
  generation INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS events (
  node TEXT NOT NULL,
  number INTEGER NOT NULL,
  at REAL NOT NULL,
  phase TEXT NOT NULL,
  state TEXT NOT NULL,
  message TEXT NOT NULL,
  PRIMARY KEY (node, number)
);
CREATE TABLE IF NOT EXISTS waits (
  node TEXT PRIMARY KEY,
  ended REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS certificates (
  serial TEXT NOT NULL,
  authority_key TEXT NOT NULL,
  node TEXT NOT NULL,
  identity TEXT NOT NULL,
  revoke INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (serial, authority_key)
);
CREATE TABLE IF NOT EXISTS renewals (
  node TEXT PRIMARY KEY,
  predecessor TEXT NOT NULL,
  public_key TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS trusts (
  node TEXT PRIMARY KEY,
  bundle TEXT NOT NULL,
  authority_key TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS troubles (
  node TEXT PRIMARY KEY,
  at REAL NOT NULL,
  message TEXT NOT NULL,
  alarm INTEGER NOT NULL
);
"""


@dataclass(frozen=True)
class Registration:
    """What `register` is given. Keys are raw bytes; `life_seconds` counts from now."""

    name: str
    addresses: tuple[str, ...]
    generation: int
    identity: str
    join_key: bytes
    status_token: bytes
    life_seconds: float


@dataclass(frozen=True)
class Node:
    """A registered node. `expires_at` and `joined_at` are seconds since the epoch.

    `public_key` is the one that the join key was used for (SHA-256, hex), None before the join;
    `certificate` the PEM that was issued for it.
    """

    name: str
    addresses: tuple[str, ...]
    generation: int
    identity: str
    join_key: bytes
    status_token: bytes
    expires_at: float
    public_key: str | None
    certificate: str | None
    joined_at: float | None


@dataclass(frozen=True)
class Event:
    """One progress report; `at` is the gate's clock in seconds since the epoch."""

    number: int
    at: float
    phase: str
    state: str
    message: str


@dataclass(frozen=True)
class Serial:
    """A certificate as the certdb names it: decimal serial, authority key identifier in hex."""

    number: str
    authority_key: str


class Busy(Exception):
    """Another process is in a transaction."""


class Store:
    """One SQLite file. Each call is one transaction, but those within `transaction` are one."""

    def __init__(self, path: str) -> None:
        try:
            # Each statement is a transaction of its own, unless one is begun.
            self._database = sqlite3.connect(path, timeout=_LOCK_SECONDS, isolation_level=None)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.executescript(_SCHEMA)
        except sqlite3.Error as error:
            # A full disk is an "I/O error" to SQLite, when it opens what it needs beside the file.
            folder = Path(path).parent
            free = shutil.disk_usage(folder).free // 1024 if folder.is_dir() else 0
            reason = f"{path}: cannot be opened: {error}; {free} KiB are free there"
            raise GateError(reason) from None

    def close(self) -> None:
        self._database.close()

    @contextmanager
    def transaction(self, *, wait: bool = True) -> Iterator[None]:
        """All calls within, or none of them; Busy at once where it can't begin without waiting."""
        if self._database.in_transaction:
            yield
            return
        self._begin(wait)
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # of a full disk SQLite has made that end of it
                self._database.execute("ROLLBACK")
            raise

    def _begin(self, wait: bool) -> None:
        if wait:
            self._database.execute("BEGIN IMMEDIATE")
            return
        self._database.execute("PRAGMA busy_timeout=0")
        try:
            self._database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise Busy from None
            raise
        finally:
            self._database.execute(f"PRAGMA busy_timeout={int(_LOCK_SECONDS * 1000)}")

    def node(self, name: str) -> Node | None:
        """The node's registration, None where there is none."""
        row = self._database.execute(
            "SELECT name, addresses, generation, identity, join_key, status_token, expires_at,"
            " public_key, certificate, joined_at FROM nodes WHERE name = ?",
            (name,),
        ).fetchone()
        return None if row is None else Node(row[0], tuple(json.loads(row[1])), *row[2:])

    def names(self) -> list[str]:
        rows = self._database.execute("SELECT name FROM nodes ORDER BY name").fetchall()
        return [row[0] for row in rows]

    def version(self) -> int:
        """Another number after anybody else, in whichever process, changed something."""
        number: int = self._database.execute("PRAGMA data_version").fetchone()[0]
        return number

    def register(self, registration: Registration, stale: Iterable[Serial]) -> bool:
        """Write a registration; True where its identity is new or changed.

        The same identity with another key (the stack has another secret) keeps its join, and its
        certificate: its machine still runs. A changed identity forgets the join and its events, and
        marks for revocation `stale` and every certificate that was issued under another identity.
        GateError where its generation has joined before and was left since: that join key lies
        about on a disk somewhere.
        """
        database = self._database
        with self.transaction():
            row = database.execute(
                "SELECT identity, generation FROM nodes WHERE name = ?", (registration.name,)
            ).fetchone()
            if row is None or row[1] != registration.generation:
                _check_generation(database, registration)
            changed = row is None or row[0] != registration.identity
            if row is not None and changed:
                self._forget(database, registration.name, stale)
            database.execute(
                "INSERT INTO nodes (name, addresses, generation, identity, join_key, status_token,"
                " expires_at) VALUES (?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (name) DO UPDATE SET addresses = excluded.addresses,"
                " generation = excluded.generation, identity = excluded.identity,"
                " join_key = excluded.join_key, status_token = excluded.status_token,"
                " expires_at = excluded.expires_at",
                (
                    registration.name,
                    json.dumps(registration.addresses),
                    registration.generation,
                    registration.identity,
                    registration.join_key,
                    registration.status_token,
                    time.time() + registration.life_seconds,
                ),
            )
        return changed

    def remove(self, name: str, identity: str, stale: Iterable[Serial]) -> str | None:
        """Remove a node and mark its certificates, and `stale`, for revocation.

        Where the name is another identity's, nothing is done, and that is returned.
        """
        with self.transaction():
            row = self._database.execute(
                "SELECT identity FROM nodes WHERE name = ?", (name,)
            ).fetchone()
            if row is not None and row[0] != identity:
                return str(row[0])
            self._forget(self._database, name, stale)
        return None

    @staticmethod
    def _forget(database: sqlite3.Connection, name: str, stale: Iterable[Serial]) -> None:
        _note_use(database, name)
        database.execute("DELETE FROM nodes WHERE name = ?", (name,))
        database.execute("DELETE FROM events WHERE node = ?", (name,))
        database.execute("DELETE FROM waits WHERE node = ?", (name,))
        database.execute("DELETE FROM renewals WHERE node = ?", (name,))
        database.execute("DELETE FROM trusts WHERE node = ?", (name,))
        database.execute("DELETE FROM troubles WHERE node = ?", (name,))
        database.execute("UPDATE certificates SET revoke = 1 WHERE node = ?", (name,))
        database.executemany(
            "INSERT INTO certificates (serial, authority_key, node, identity, revoke)"
            " VALUES (?, ?, ?, '', 1)"
            " ON CONFLICT (serial, authority_key) DO UPDATE SET revoke = 1",
            [(serial.number, serial.authority_key, name) for serial in stale],
        )

    def to_revoke(self) -> list[Serial]:
        """Certificates that are marked for revocation, of all nodes."""
        rows = self._database.execute(
            "SELECT serial, authority_key FROM certificates WHERE revoke = 1 ORDER BY rowid"
        ).fetchall()
        return [Serial(*row) for row in rows]

    def revoked(self, serial: Serial) -> None:
        """Forget a certificate: the certdb says of it from now on that it is revoked."""
        self._database.execute(
            "DELETE FROM certificates WHERE serial = ? AND authority_key = ?",
            (serial.number, serial.authority_key),
        )

    def claim(self, name: str, identity: str, public_key: str) -> bool:
        """Bind the join key to `public_key` before anything is signed for it.

        False where it has a certificate, is bound to another key, or is gone.
        """
        changed = self._database.execute(
            "UPDATE nodes SET public_key = ?3 WHERE name = ?1 AND identity = ?2"
            " AND certificate IS NULL AND (public_key IS NULL OR public_key = ?3)",
            (name, identity, public_key),
        )
        return changed.rowcount == 1

    def release(self, name: str, identity: str, public_key: str) -> None:
        """Undo a claim for which nothing was signed."""
        self._database.execute(
            "UPDATE nodes SET public_key = NULL WHERE name = ? AND identity = ?"
            " AND public_key = ? AND certificate IS NULL",
            (name, identity, public_key),
        )

    def issued(
        self, name: str, identity: str, public_key: str, certificate: str, serial: Serial
    ) -> bool:
        """Keep an issued certificate.

        False where the node was removed or registered anew meanwhile: the certificate is then
        marked for revocation and must not be handed out.
        """
        with self.transaction():
            kept = self._database.execute(
                "UPDATE nodes SET certificate = ?, joined_at = ?"
                " WHERE name = ? AND identity = ? AND public_key = ?",
                (certificate, time.time(), name, identity, public_key),
            ).rowcount
            self._note(serial, name, identity, revoke=not kept)
        return kept == 1

    def _note(self, serial: Serial, name: str, identity: str, *, revoke: bool) -> None:
        self._database.execute(
            "INSERT INTO certificates (serial, authority_key, node, identity, revoke)"
            " VALUES (?, ?, ?, ?, ?) ON CONFLICT (serial, authority_key) DO NOTHING",
            (serial.number, serial.authority_key, name, identity, revoke),
        )

    def gave(self, serial: Serial, identity: str) -> bool:
        """Whether the certificate was given to this identity, and is not to be revoked."""
        row = self._database.execute(
            "SELECT 1 FROM certificates WHERE serial = ? AND authority_key = ? AND identity = ?"
            " AND revoke = 0",
            (serial.number, serial.authority_key, identity),
        ).fetchone()
        return row is not None

    def claim_renewal(self, node: Node, predecessor: str, public_key: str) -> bool:
        """Bind the renewal of the node's present certificate to `public_key`, before it is signed.

        `predecessor` is that certificate's SHA-256 in hex. False where the node has another one by
        now, or its renewal is bound to another key.
        """
        with self.transaction():
            present = self.node(node.name)
            if present is None or (present.identity, present.certificate) != (
                node.identity,
                node.certificate,
            ):
                return False
            changed = self._database.execute(
                "INSERT INTO renewals (node, predecessor, public_key) VALUES (?, ?, ?)"
                " ON CONFLICT (node) DO UPDATE"
                " SET predecessor = excluded.predecessor, public_key = excluded.public_key"
                " WHERE predecessor != excluded.predecessor OR public_key = excluded.public_key",
                (node.name, predecessor, public_key),
            )
        return changed.rowcount == 1

    def release_renewal(self, name: str, predecessor: str, public_key: str) -> None:
        """Undo a claim for which nothing was signed."""
        self._database.execute(
            "DELETE FROM renewals WHERE node = ? AND predecessor = ? AND public_key = ?",
            (name, predecessor, public_key),
        )

    def renewal(self, name: str) -> tuple[str, str] | None:
        """The certificate (SHA-256) that was renewed last, or is now, and the key it is for."""
        row = self._database.execute(
            "SELECT predecessor, public_key FROM renewals WHERE node = ?", (name,)
        ).fetchone()
        return None if row is None else (row[0], row[1])

    def renewed(self, node: Node, public_key: str, certificate: str, serial: Serial) -> bool:
        """Keep a certificate in the place of the one that `node` has; False as with `issued`."""
        with self.transaction():
            kept = self._database.execute(
                "UPDATE nodes SET certificate = ?, public_key = ?"
                " WHERE name = ? AND identity = ? AND certificate = ?",
                (certificate, public_key, node.name, node.identity, node.certificate),
            ).rowcount
            self._note(serial, node.name, node.identity, revoke=not kept)
            if kept:
                self._settle(node.name)
        return kept == 1

    def _settle(self, name: str) -> None:
        self._database.execute("DELETE FROM troubles WHERE node = ? AND NOT alarm", (name,))

    def trusts(self, name: str, bundle: str, authority_key: str) -> None:
        """Keep what a node says that it trusts (SHA-256, hex), and whose certificate it showed.

        It has come on, so whatever kept it from that is over.
        """
        with self.transaction():
            self._database.execute(
                "INSERT INTO trusts (node, bundle, authority_key) VALUES (?1, ?2, ?3)"
                " ON CONFLICT (node) DO UPDATE SET bundle = ?2, authority_key = ?3",
                (name, bundle, authority_key),
            )
            self._settle(name)

    def trusted(self, name: str) -> tuple[str, str] | None:
        """What the node told last by `trusts`."""
        row = self._database.execute(
            "SELECT bundle, authority_key FROM trusts WHERE node = ?", (name,)
        ).fetchone()
        return None if row is None else (row[0], row[1])

    def trouble(self, name: str, message: str, *, alarm: bool = False) -> None:
        """Keep why a node's certificate is not renewed. An alarm stays until the node is another"""
        self._database.execute(
            "INSERT INTO troubles (node, at, message, alarm) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (node) DO UPDATE"
            " SET at = excluded.at, message = excluded.message, alarm = excluded.alarm"
            " WHERE excluded.alarm OR NOT alarm",
            (name, time.time(), message, alarm),
        )

    def troubles(self) -> dict[str, tuple[float, str]]:
        """Why nodes' certificates are not renewed, and since when, by their names."""
        rows = self._database.execute("SELECT node, at, message FROM troubles").fetchall()
        return {name: (at, message) for name, at, message in rows}

    def append_events(self, name: str, events: Sequence[tuple[float, str, str, str]]) -> None:
        """Add events (at, phase, state, message), dropping the oldest over EVENTS_KEPT.

        Where there is no such node any more, nothing happens.
        """
        database = self._database
        with self.transaction():
            if not database.execute("SELECT 1 FROM nodes WHERE name = ?", (name,)).fetchone():
                return
            last: int = database.execute(
                "SELECT coalesce(max(number), 0) FROM events WHERE node = ?", (name,)
            ).fetchone()[0]
            rows = [(name, number, *event) for number, event in enumerate(events, last + 1)]
            database.executemany(
                "INSERT INTO events (node, number, at, phase, state, message)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                rows,
            )
            database.execute(
                "DELETE FROM events WHERE node = ? AND number <= ?",
                (name, last + len(rows) - EVENTS_KEPT),
            )

    def waited(self, name: str) -> float:
        """When a wait last told that the node failed, in seconds since the epoch; 0 for never."""
        row = self._database.execute("SELECT ended FROM waits WHERE node = ?", (name,)).fetchone()
        return float(row[0]) if row else 0.0

    def wait_ended(self, name: str, at: float) -> None:
        """Note that the node's failures up to `at` were told."""
        self._database.execute(
            "INSERT INTO waits (node, ended) VALUES (?, ?)"
            " ON CONFLICT (node) DO UPDATE SET ended = excluded.ended",
            (name, at),
        )

    def events(self, name: str, after: int) -> list[Event]:
        """The node's events with a number above `after`, oldest first."""
        rows: Sequence[tuple[Any, ...]] = self._database.execute(
            "SELECT number, at, phase, state, message FROM events"
            " WHERE node = ? AND number > ? ORDER BY number",
            (name, after),
        ).fetchall()
        return [Event(*row) for row in rows]


def _note_use(database: sqlite3.Connection, name: str) -> None:
    """Remember that this generation's join key was used, before its row goes."""
    database.execute(
        "INSERT INTO used (node, generation) SELECT name, generation FROM nodes"
        " WHERE name = ? AND public_key IS NOT NULL ON CONFLICT (node) DO UPDATE"
        " SET generation = max(used.generation, excluded.generation)",
        (name,),
    )


def _check_generation(database: sqlite3.Connection, registration: Registration) -> None:
    _note_use(database, registration.name)
    row = database.execute(
        "SELECT generation FROM used WHERE node = ?", (registration.name,)
    ).fetchone()
    used = row[0] if row else 0
    if registration.generation <= used:
        raise GateError(
            f"{registration.name}: generation {used} has joined before, and a join key is good for "
            f"one join: set its generation to {used + 1} or higher, found {registration.generation}"
        )
