"""The gate's HTTP interface: which request does what. See docs for the contract."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import sqlite3
import time
from collections.abc import Awaitable
from typing import Any, Callable

from cryptography.hazmat.primitives import serialization

from . import certificates, envelope, issued, journal, names, progress, rules
from .commits import Commits
from .errors import AuthorityError, Refusal
from .http1 import Request, Response
from .locks import NodeLocks
from .status import CertificateStatus
from .store import Event, Node, Serial, Store
from .trust import Trust
from .upstream import Upstream

# The same words for a node that does not exist and for a key that does not fit.
_NOT_AUTHENTIC = "not authentic: unknown node, or a token made with another join key"
_STATUS_PREFIX = "/v1/status/"
_Handler = Callable[[Request, str], Awaitable[Response]]


_ENCODER = json.JSONEncoder(separators=(",", ":"))


def json_response(status: int, data: object) -> Response:
    return Response(status, _ENCODER.encode(data).encode())


def refusal_response(refusal: Refusal) -> Response:
    """A refusal in CFSSL's shape, which the stock client prints."""
    error = {"code": refusal.status, "message": refusal.message}
    body = {"success": False, "result": None, "errors": [error], "messages": []}
    headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else {}
    return Response(refusal.status, json.dumps(body).encode(), close=refusal.close, headers=headers)


class Application:
    """Answers requests, as many at once as there are."""

    def __init__(
        self,
        store: Store,
        commits: Commits,
        upstream: Upstream,
        following: progress.Progress,
        locks: NodeLocks,
        authority: issued.Authority,
        trust: Trust,
        hours: int,
        status: CertificateStatus,
    ) -> None:
        self._store = store
        self._commits = commits
        self._upstream = upstream
        self._progress = following
        self._authority = authority
        self._trust = trust
        self._hours = hours
        self._certificate_status = status
        self._locks = locks
        self._routes: dict[tuple[str, str], _Handler] = {
            ("POST", "/api/v1/cfssl/info"): self._info,
            ("POST", "/api/v1/cfssl/authsign"): self._authsign,
            ("POST", "/v1/renewal"): self._renew,
            ("POST", "/v1/trust"): self._tell_trust,
            ("POST", "/v1/trouble"): self._troubled,
            ("POST", "/v1/progress"): self._report,
            ("GET", "/healthz"): self._health,
        }

    async def answer(self, request: Request, remote: str) -> Response:
        """The response to a request; refusals included. `remote` is the client's address."""
        try:
            return await self._handler(request)(request, remote)
        except Refusal as error:
            refusal = error
        except sqlite3.Error as error:  # nothing of it was done: the disk is full, most often
            refusal = Refusal(503, f"the join gate's own books can't be kept: {error}")
        journal.record(
            "refused",
            path=request.path[:80],
            status=refusal.status,
            reason=refusal.message,
            remote=remote,
        )
        return refusal_response(refusal)

    def _handler(self, request: Request) -> _Handler:
        if request.path.startswith(_STATUS_PREFIX) and request.method in ("GET", "POST"):
            return self._status if request.method == "GET" else self._told
        handler = self._routes.get((request.method, request.path))
        if handler is not None:
            return handler
        known = {path for _, path in self._routes}
        if request.path in known or request.path.startswith(_STATUS_PREFIX):
            raise Refusal(405, f"{request.method}: not for this path", close=True)
        raise Refusal(404, "no such path")

    async def _health(self, request: Request, remote: str) -> Response:
        self._store.names()
        return json_response(200, {"status": "ok"})

    async def _info(self, request: Request, remote: str) -> Response:
        certificate = self._authority.certificate
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode().strip()
        result = {
            "certificate": pem,
            "usages": ["signing", "key encipherment", "client auth", "server auth"],
            "expiry": f"{self._hours}h",
        }
        body = {"success": True, "result": result, "errors": [], "messages": []}
        return json_response(200, body)

    async def _authsign(self, request: Request, remote: str) -> Response:
        started = time.monotonic()
        signed = envelope.parse_envelope(request.body)
        data = envelope.parse_object(signed.request, "the request")
        certificate_request = rules.read_request(data)
        name = rules.claimed_name(certificate_request)
        node = self._authentic_node(name, signed)
        signable = rules.check(data, certificate_request, name, node.addresses)
        certificate, serial = await self._certificate(node, signable, remote)
        journal.record(
            "joined",
            node=name,
            identity=node.identity,
            serial=serial,
            milliseconds=round((time.monotonic() - started) * 1000, 1),
            remote=remote,
        )
        return _signed(certificate)

    def _authentic_node(self, name: str, signed: envelope.Envelope) -> Node:
        node = self._store.node(name) if names.is_name(name) else None
        if not signed.authentic(node.join_key if node else None) or node is None:
            raise Refusal(401, _NOT_AUTHENTIC)
        if time.time() >= node.expires_at:
            raise Refusal(
                403, f"the join key of {name} has expired; raise its generation to join it anew"
            )
        return node

    async def _certificate(
        self, node: Node, signable: rules.Signable, remote: str
    ) -> tuple[str, str | None]:
        """The certificate for a join key's one public key, and its serial number where it is new.

        Asked again, it is the one that was signed before.
        """
        name, identity, key = node.name, node.identity, signable.public_key
        async with self._locks.held(name):
            # Who claims a key signs for it, and nobody else while the lock is held.
            if await self._commits.soon(lambda: self._store.claim(name, identity, key)):
                return await self._sign(name, identity, signable)
            present = self._store.node(name)
        if present is None or present.identity != identity:
            raise Refusal(401, _NOT_AUTHENTIC)
        if present.public_key == key and present.certificate is not None:
            return present.certificate, None
        # Two machines hold this join key, or one was set up anew: a person should look.
        journal.record("alarm", node=name, identity=identity, reason="a second key", remote=remote)
        raise Refusal(409, f"{name} has already joined; raise its generation to join it anew")

    async def _sign(self, name: str, identity: str, signable: rules.Signable) -> tuple[str, str]:
        key = signable.public_key
        pem, serial = await self._asked(signable, lambda: self._store.release(name, identity, key))
        if not await self._commits.soon(
            lambda: self._store.issued(name, identity, key, pem, serial)
        ):
            journal.record("withheld", node=name, serial=serial.number)
            raise Refusal(401, _NOT_AUTHENTIC)
        return pem, serial.number

    async def _asked(
        self, signable: rules.Signable, release: Callable[[], None]
    ) -> tuple[str, Serial]:
        """What CFSSL signed; the claim is given up by `release` where it certainly did not."""
        try:
            pem = await self._upstream.sign(signable)
            return pem, issued.check(pem, signable, self._authority, self._hours)
        except AuthorityError as error:
            if error.definite:
                await self._commits.soon(release)
            journal.record("authority-failed", node=signable.name, reason=str(error))
            raise Refusal(502, str(error)) from None

    async def _renew(self, request: Request, remote: str) -> Response:
        """Another certificate, for another key, for the node that shows the one it has."""
        started = time.monotonic()
        node, shown = await self._certified(request)
        data = envelope.parse_object(request.body, "the body")
        certificate_request = rules.read_request(data)
        signable = rules.check(data, certificate_request, node.name, node.addresses)
        if not shown.parts.is_for(signable.hosts):
            raise Refusal(403, "hosts: must be all those of the certificate, and no others")
        if signable.key == shown.parts.key:
            raise Refusal(403, "key: must be another one than that of the certificate")
        certificate, serial = await self._successor(node, shown, signable, remote)
        journal.record(
            "renewed",
            node=node.name,
            identity=node.identity,
            serial=serial,
            predecessor=shown.parts.serial.number,
            milliseconds=round((time.monotonic() - started) * 1000, 1),
            remote=remote,
        )
        return _signed(certificate)

    async def _certified(self, request: Request) -> tuple[Node, _Shown]:
        """The registered node whose certificate, of its present identity, the client has shown.

        TLS has proved that it is the authority's, was alive when the connection began, and that the
        client has its key.
        """
        if request.certificate is None:
            raise Refusal(401, "not authentic: show the node's certificate, by mutual TLS")
        shown = _Shown(request.certificate)
        name = names.node_of(shown.parts.subject)
        node = self._store.node(name) if name else None
        if node is None or not self._store.gave(shown.parts.serial, node.identity):
            raise Refusal(
                401,
                "not authentic: not a certificate of a node as it is registered; "
                "raise its generation to join it anew",
            )
        if time.time() >= shown.parts.life[1]:
            raise Refusal(401, "not authentic: the certificate has expired")
        if await self._certificate_status.is_revoked(shown.parts.serial):
            raise Refusal(401, "not authentic: the certificate is revoked")
        return node, shown

    async def _successor(
        self, node: Node, shown: _Shown, signable: rules.Signable, remote: str
    ) -> tuple[str, str | None]:
        """The certificate after the one that is shown, and its serial number where it is new.

        A certificate is good for one renewal, as a join key for one join: asked again for the same
        key, it is the one that was signed before.
        """
        key = signable.public_key
        async with self._locks.held(node.name):
            if shown.is_present(node) and await self._commits.soon(
                lambda: self._store.claim_renewal(node, shown.sha256, key)
            ):
                return await self._replaced(node, shown, signable)
            present = self._store.node(node.name)
            renewal = self._store.renewal(node.name)
        if present is None or present.identity != node.identity:
            raise Refusal(401, _NOT_AUTHENTIC)
        if renewal == (shown.sha256, key) and present.public_key == key and present.certificate:
            return present.certificate, None
        reason = f"a certificate of {node.name} was to be renewed for a second key, from {remote}"
        journal.record(
            "alarm", node=node.name, identity=node.identity, reason=reason, remote=remote
        )
        await self._commits.soon(lambda: self._store.trouble(node.name, reason, alarm=True))
        raise Refusal(
            409,
            f"this certificate of {node.name} was renewed for another key before: a copy of it is "
            "in use; raise its generation to join it anew",
        )

    async def _replaced(
        self, node: Node, shown: _Shown, signable: rules.Signable
    ) -> tuple[str, str]:
        key = signable.public_key
        pem, serial = await self._asked(
            signable, lambda: self._store.release_renewal(node.name, shown.sha256, key)
        )
        if not await self._commits.soon(lambda: self._store.renewed(node, key, pem, serial)):
            journal.record("withheld", node=node.name, serial=serial.number)
            raise Refusal(401, _NOT_AUTHENTIC)
        return pem, serial.number

    async def _tell_trust(self, request: Request, remote: str) -> Response:
        """What a node is to trust, where it is something else than it says that it does."""
        node, shown = await self._certified(request)
        data = envelope.parse_object(request.body, "the body")
        bundle = data.get("trusts")
        if set(data) != {"trusts"} or not _is_digest(bundle):
            raise Refusal(400, "the body must be an object with trusts, a SHA-256 in hex")
        told = str(bundle), shown.parts.serial.authority_key
        # A certificate that was renewed says nothing of the node any more.
        new = self._store.trusted(node.name) != told or node.name in self._store.troubles()
        if new and shown.is_present(node):
            await self._commits.soon(lambda: self._store.trusts(node.name, *told))
        if told[0] == self._trust.digest or not self._trust.answer:
            return Response(204)
        journal.record("told-trust", node=node.name, remote=remote)
        return Response(200, self._trust.answer.encode(), "text/plain")

    async def _troubled(self, request: Request, remote: str) -> Response:
        """Why a node can't renew its certificate, as it tells it itself."""
        node, shown = await self._certified(request)
        data = envelope.parse_object(request.body, "the body")
        message = data.get("message")
        if set(data) != {"message"} or not isinstance(message, str):
            raise Refusal(400, "the body must be an object with message, a text, and nothing else")
        if not shown.is_present(node):
            raise Refusal(409, "the certificate was renewed: only the present one may tell")
        secrets = (node.join_key, node.status_token)
        line = progress.one_line(progress.without_secrets(message, secrets))
        await self._commits.soon(lambda: self._store.trouble(node.name, line))
        journal.record("not-renewed", node=node.name, reason=line, remote=remote)
        return Response(204)

    async def _report(self, request: Request, remote: str) -> Response:
        signed = envelope.parse_envelope(request.body)
        data = envelope.parse_object(signed.request, "the request")
        name = data.get("node")
        if not isinstance(name, str):
            raise Refusal(400, "node: must be text")
        return await self._keep(self._authentic_node(name, signed), data)

    async def _told(self, request: Request, remote: str) -> Response:
        """What the host of a node's machine tells of it, as far as the node itself can't."""
        node = self._watched(request)
        data = envelope.parse_object(request.body, "the body")
        if data.get("node", node.name) != node.name:
            raise Refusal(400, f"node: must be {node.name}")
        return await self._keep(node, data)

    async def _keep(self, node: Node, data: dict[str, Any]) -> Response:
        reports = progress.checked_reports(data, (node.join_key, node.status_token))
        await self._progress.report(node.name, reports)
        for it in reports:
            journal.record(
                "progress",
                node=node.name,
                phase=it.phase,
                state=it.state,
                message=it.message or None,
            )
        return Response(204)

    def _watched(self, request: Request) -> Node:
        """The node of a status path, for who has its status token."""
        name = request.path[len(_STATUS_PREFIX) :]
        node = self._store.node(name) if names.is_name(name) else None
        return _check_bearer(request, node)

    async def _status(self, request: Request, remote: str) -> Response:
        name = self._watched(request).name
        after = _number(request.query, "after", 1_000_000_000)
        wait = _number(request.query, "wait", progress.WAIT_LIMIT_SECONDS)
        events = await self._progress.follow(name, int(after), wait)
        if request.query.get("format") == "lines":
            return Response(200, _lines(events), "text/plain; charset=utf-8")
        return json_response(200, {"node": name, "events": [_shown(event) for event in events]})


class _Shown:
    """A certificate that a client has shown; Refusal where no node can have it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.sha256 = hashlib.sha256(data).hexdigest()
        try:
            self.parts = certificates.read(data)
            _ = self.parts.serial, self.parts.life
        except (ValueError, LookupError):
            raise Refusal(401, "not authentic: the certificate is not a node's") from None

    def is_present(self, node: Node) -> bool:
        """Whether it is the one that the node has."""
        return node.certificate is not None and (
            certificates.from_pem(node.certificate) == self._data
        )


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _signed(certificate: str) -> Response:
    """A certificate in CFSSL's shape."""
    result = {"certificate": certificate}
    return json_response(200, {"success": True, "result": result, "errors": [], "messages": []})


def _check_bearer(request: Request, node: Node | None) -> Node:
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    expected = (node.status_token if node else b"\0" * 32).hex()
    fits = hmac.compare_digest(expected.encode(), text.strip().lower().encode())
    if scheme.lower() != "bearer" or not fits or node is None:
        raise Refusal(401, "not authentic: unknown node, or another status token")
    return node


def _number(query: dict[str, str], name: str, largest: float) -> float:
    text = query.get(name, "0")
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= largest:
        raise Refusal(400, f"{name}: must be a number from 0 to {largest:g}, found {text[:20]!r}")
    return value


def _shown(event: Event) -> dict[str, Any]:
    return {
        "number": event.number,
        "phase": event.phase,
        "state": event.state,
        "message": event.message,
        "at": event.at,
    }


def _lines(events: list[Event]) -> bytes:
    """One event a line, for shells without jq; messages hold neither tabs nor line ends."""
    return "".join(
        f"{event.number}\t{event.at:.3f}\t{event.phase}\t{event.state}\t{event.message}\n"
        for event in events
    ).encode()
