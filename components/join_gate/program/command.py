"""The gate's commands; see _USAGE."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from . import awaiting, certificates, names, revocation, trust
from . import settings as gate_settings
from .errors import GateError
from .settings import Settings
from .store import Node, Registration, Store

_USAGE = """usage: gate [--settings FILE] COMMAND
  serve            answer nodes until SIGTERM
  register NAME    admit a node; registration as JSON on standard input
  remove NAME IDENTITY
                   forget a node and revoke its certificates; nothing where it is another identity
  await            follow joins until every node is Ready or has failed; JSON on standard input
  revoked          revoked certificates of nodes that have not expired, as JSON
  replace          whether the trusted CAs may become those on standard input, or who is in the way
  status [NAME]    registered nodes and their progress as JSON"""
_SECRET_BYTES = 32
_LONGEST_LIFE_HOURS = 8760
_INPUT_LIMIT = 65536


def main(arguments: list[str]) -> int:
    """Run one command; its exit status: 0 done, 1 failed (one line on stderr), 2 usage."""
    path = gate_settings.DEFAULT_PATH
    if arguments[:1] == ["--settings"] and len(arguments) > 1:
        path, arguments = arguments[1], arguments[2:]
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    wanted = {
        "serve": (0, 0),
        "register": (1, 1),
        "remove": (2, 2),
        "await": (0, 0),
        "revoked": (0, 0),
        "replace": (0, 0),
        "status": (0, 1),
    }
    least, most = wanted.get(command, (1, 0))
    if not least <= len(rest) <= most:
        print(_USAGE, file=sys.stderr)
        return 2
    try:
        settings = gate_settings.load(path)
        _run(command, rest, settings)
    except GateError as error:
        print(f"gate {command}: {error}", file=sys.stderr)
        return 1
    return 0


def _run(command: str, rest: list[str], settings: Settings) -> None:
    if command == "serve":
        serve(settings)
        return
    if command == "revoked":
        print(json.dumps({"revoked": revocation.revoked_certificates(settings)}))
        return
    if command == "await":
        _await(settings)
        return
    for name in rest[:1]:
        if not names.is_name(name):
            raise GateError(
                f"{name!r}: not a node's name: lower case letters, digits, - and ., "
                f"at most {names.NAME_LIMIT}, and no address"
            )
    with revocation.acting_as(settings.user):
        store = Store(settings.database)
    try:
        if command == "register":
            _register(rest[0], settings, store)
        elif command == "remove":
            _remove(rest[0], rest[1], settings, store)
        elif command == "replace":
            _replace(settings, store)
        else:
            _status(rest, settings, store)
    finally:
        with revocation.acting_as(settings.user):
            store.close()


def _register(name: str, settings: Settings, store: Store) -> None:
    registration = parse_registration(name, sys.stdin.buffer.read(_INPUT_LIMIT))
    with revocation.acting_as(settings.user):
        before = store.node(name)
    stale = []
    if before is not None and before.identity != registration.identity:
        stale = revocation.valid_certificates(settings, name)
    with revocation.acting_as(settings.user):
        store.register(registration, stale)
    revocation.revoke_marked(settings, store, "superseded")
    print(
        json.dumps(
            {
                "node": name,
                "generation": registration.generation,
                "identity": registration.identity,
            }
        )
    )


def _await(settings: Settings) -> None:
    nodes = awaiting.parse(sys.stdin.buffer.read())
    with revocation.acting_as(settings.user):
        store = Store(settings.database)
        try:
            awaiting.follow(store, nodes, lambda line: print(line, flush=True))
        finally:
            store.close()
    failed = [f"{node.name} did not join: {node.cause}" for node in nodes if node.cause]
    if failed:
        raise GateError("\n".join([f"{len(failed)} of {len(nodes)} nodes failed", *failed]))
    print(json.dumps({node.name: node.summary() for node in nodes}))


def _remove(name: str, identity: str, settings: Settings, store: Store) -> None:
    stale = revocation.valid_certificates(settings, name)
    with revocation.acting_as(settings.user):
        other = store.remove(name, identity, stale)
    if other is not None:
        print(f"{name} is {other} here, not {identity}: it stays", file=sys.stderr)
        return
    count = revocation.revoke_marked(settings, store, "cessationofoperation")
    print(json.dumps({"node": name, "revoked": count}))


def _status(rest: list[str], settings: Settings, store: Store) -> None:
    with revocation.acting_as(settings.user):
        nodes = [store.node(name) for name in rest or store.names()]
        if rest and nodes == [None]:
            raise GateError(f"{rest[0]}: not registered")
        authority, troubles = trusted(settings), store.troubles()
        shown = [
            _shown(node, store, troubles) | _trusts(node, store, authority)
            for node in nodes
            if node is not None
        ]
    if rest:
        print(json.dumps(shown[0], indent=2))
        return
    print(json.dumps({"authority": authority.bundle, "nodes": shown}, indent=2))


def trusted(settings: Settings) -> trust.Trust:
    """What is trusted here, and what nodes are told of it."""
    try:
        bundle = Path(settings.authority).read_text()
        answer = Path(settings.trust).read_text() if settings.trust else ""
        return trust.read(bundle, answer)
    except OSError as error:
        raise GateError(f"{error.filename}: {error.strerror}") from None
    except GateError as error:
        raise GateError(f"{settings.authority}: {error}") from None


def _replace(settings: Settings, store: Store) -> None:
    wanted = trust.read(sys.stdin.read(_INPUT_LIMIT))
    with revocation.acting_as(settings.user):
        nodes = [node for node in map(store.node, store.names()) if node is not None]
        told = [(node, trust.told(node, store)) for node in nodes]
        found = trust.in_the_way(trusted(settings), wanted, told)
    if found:
        raise GateError("\n".join(["nodes are in the way of the edit", *found]))


def _trusts(node: Node, store: Store, authority: trust.Trust) -> dict[str, bool]:
    """Whether a node trusts what is trusted here, and its certificate is of the CA that signs.

    Who has not told yet, and has one CA to trust, has it by its seed.
    """
    bundle, key = trust.told(node, store)
    return {
        "trusts": bundle == authority.digest or (not bundle and len(authority.pems) == 1),
        "ofSigner": not key or key == authority.identifiers[0],
    }


def _shown(node: Node, store: Store, troubles: dict[str, tuple[float, str]]) -> dict[str, Any]:
    """A node without its secrets. `trouble` is why its certificate is not renewed."""
    last = store.events(node.name, 0)[-1:]
    begins, ends = None, None
    if node.certificate is not None:
        begins, ends = certificates.read(certificates.from_pem(node.certificate)).life
    trouble = troubles.get(node.name)
    return {
        "node": node.name,
        "addresses": list(node.addresses),
        "generation": node.generation,
        "identity": node.identity,
        "expiresAt": node.expires_at,
        "expired": time.time() >= node.expires_at,
        "joined": node.certificate is not None,
        "joinedAt": node.joined_at,
        "certificateFrom": begins,
        "certificateUntil": ends,
        "trouble": trouble[1] if trouble else None,
        "troubleAt": trouble[0] if trouble else None,
        "phase": last[0].phase if last else None,
        "state": last[0].state if last else None,
        "message": last[0].message if last else None,
        "at": last[0].at if last else None,
    }


def parse_registration(name: str, data: bytes) -> Registration:
    """The registration on standard input; GateError names the key that is wrong, not its value."""
    try:
        value = json.loads(data)
    except ValueError:
        raise GateError("standard input: not JSON") from None
    expected = {"node", "addresses", "generation", "identity", "joinKey", "statusToken"}
    if not isinstance(value, dict) or not expected <= set(value) <= expected | {"lifeHours"}:
        raise GateError(f"standard input: must be an object with {', '.join(sorted(expected))}")
    if value["node"] != name:
        raise GateError(f"standard input: node: must be {name}")
    life = value.get("lifeHours", 24)
    if type(life) is not int or not 1 <= life <= _LONGEST_LIFE_HOURS:
        raise GateError(f"standard input: lifeHours: 1 to {_LONGEST_LIFE_HOURS}, found {life!r}")
    if type(value["generation"]) is not int or value["generation"] < 1:
        raise GateError(f"standard input: generation: 1 or more, found {value['generation']!r}")
    identity = value["identity"]
    if not isinstance(identity, str) or not re.fullmatch(r"[-.:A-Za-z0-9]{1,200}", identity):
        raise GateError(f"standard input: identity: letters, digits, -.: , found {identity!r}")
    return Registration(
        name=name,
        addresses=_addresses(value["addresses"]),
        generation=value["generation"],
        identity=identity,
        join_key=_secret(value, "joinKey"),
        status_token=_secret(value, "statusToken"),
        life_seconds=life * 3600.0,
    )


def _addresses(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise GateError(f"standard input: addresses: must be a list of addresses, found {value!r}")
    result = []
    for text in value:
        canonical = names.address(text) if isinstance(text, str) else None
        if canonical is None or not names.is_node_address(canonical):
            raise GateError(f"standard input: addresses: not an address of a node: {text!r}")
        result.append(canonical)
    return tuple(result)


def _secret(value: dict[str, Any], name: str) -> bytes:
    text = value[name]
    if not isinstance(text, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise GateError(f"standard input: {name}: must be {_SECRET_BYTES} bytes in hex")
    return bytes.fromhex(text)


def serve(settings: Settings) -> None:
    """Answer nodes until SIGTERM."""
    # Only here: the other commands then start without loading `cryptography` and `ssl`.
    from cryptography import x509

    from . import journal, server
    from .issued import Authority
    from .supervisor import Supervisor, process_count
    from .worker import Worker

    os.umask(0o077)
    told = trusted(settings)
    try:
        pems = [it.encode() for it in told.pems]
        authority = Authority(*map(x509.load_pem_x509_certificate, pems))
    except ValueError as error:
        raise GateError(f"{settings.authority}: not a certificate: {error}") from None
    key = _upstream_key(settings.upstreamKey)
    context = server.tls_context(
        settings.certificate, settings.key, settings.minimumTls, settings.authority
    )
    # Made before there are several who would make it; opened by each for itself.
    Store(settings.database).close()
    listener = server.listen(settings.listen, settings.port)
    count = process_count()
    worker = Worker(settings, listener, context, authority, told, key, 1 / count)
    journal.record("listening", address=settings.listen, port=settings.port, processes=count)
    Supervisor(listener, count, worker.run).run()
    journal.record("stopped")


def _upstream_key(path: str) -> bytes:
    try:
        key = bytes.fromhex(Path(path).read_text().strip())
    except (OSError, ValueError) as error:
        raise GateError(f"{path}: cannot be read as a key in hex: {error}") from None
    if len(key) < _SECRET_BYTES:
        # An empty key would make every token valid that anyone makes with an empty key.
        raise GateError(f"{path}: must hold {_SECRET_BYTES} bytes in hex, found {len(key)}")
    return key
