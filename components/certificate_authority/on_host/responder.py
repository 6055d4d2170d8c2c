#!/usr/bin/python3
"""Tells anybody over plain HTTP which certificates are revoked: OCSP (RFC 6960) and the CRL.

usage: responder.py SETTINGS   a JSON file, see components/certificate_authority/installation.py
  POST /, GET /BASE64   an OCSP request in DER; answered from the certdb as it is at that moment
  GET /ca.crl           the CRL in DER, which a job of this host keeps fresh
  GET /also.crl         that of a CA that is trusted beside the one that signs
  GET /revoked          serial and authority key identifier of what is revoked and has not expired,
                        a line each, then "end"; for the gate on this host, which a CA without a CRL
                        has too

The first two are signed, so they need no TLS, which could not be checked without them.
Python 3.9 is enough.
"""

import base64
import contextlib
import datetime
import json
import signal
import socket
import socketserver
import sqlite3
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp

CONNECTIONS = 64
SECONDS = 10
LARGEST_REQUEST = 4096
LOCK_SECONDS = 5.0
# An answer is good for as long as it may be kept: a revocation is seen within a minute.
LIFE = datetime.timedelta(seconds=60)
# RFC 5280, 5.3.1; 0 is "unspecified" and is left out.
REASONS = {
    1: x509.ReasonFlags.key_compromise,
    2: x509.ReasonFlags.ca_compromise,
    3: x509.ReasonFlags.affiliation_changed,
    4: x509.ReasonFlags.superseded,
    5: x509.ReasonFlags.cessation_of_operation,
    6: x509.ReasonFlags.certificate_hold,
    9: x509.ReasonFlags.privilege_withdrawn,
    10: x509.ReasonFlags.aa_compromise,
}
OCSP_TYPE = "application/ocsp-response"
CRL_TYPE = "application/pkix-crl"
UTC = datetime.timezone.utc  # by its older name, for Python 3.9


class Signer:
    """The delegated signer's certificate and key. Read again when the certificate is renewed."""

    def __init__(self, certificate, key):
        self._paths = (certificate, key)
        self._stamp = None
        self._lock = threading.Lock()

    def pair(self):
        with self._lock:
            stamp = [Path(path).stat().st_mtime_ns for path in self._paths]
            if stamp != self._stamp:
                certificate, key = (read(path) for path in self._paths)
                self._pair = (
                    x509.load_pem_x509_certificate(certificate),
                    serialization.load_pem_private_key(key, None),
                )
                self._stamp = stamp
            return self._pair


class Authority:
    """A CA, who signs OCSP answers for it, and its CRL."""

    def __init__(self, settings, key):
        self.certificate = x509.load_pem_x509_certificate(read(settings["authority"]))
        extension = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        self.identifier = extension.value.digest.hex()
        self.signer = Signer(settings["certificate"], key)


class Responder:
    """Answers OCSP requests about certificates of the authorities that it has, from the certdb."""

    def __init__(self, settings):
        known = [settings, settings["also"]] if "also" in settings else [settings]
        self.authorities = [Authority(each, settings["key"]) for each in known]
        self.crls = {f"/{Path(each['crl']).name}": each["crl"] for each in known}
        self.certdb = settings["certdb"]

    def answer(self, request):
        """The DER of the answer to an OCSP request in DER."""
        try:
            asked = ocsp.load_der_ocsp_request(request)
            algorithm, serial = asked.hash_algorithm, asked.serial_number
        except Exception:  # several kinds, by version and by what is wrong
            return refusal(ocsp.OCSPResponseStatus.MALFORMED_REQUEST)
        try:
            for authority in self.authorities:
                answer = self._about(asked, algorithm, serial, authority)
                if answer is not None:
                    return answer
            return refusal(ocsp.OCSPResponseStatus.UNAUTHORIZED)
        except (sqlite3.Error, OSError) as error:
            print("responder: no answer:", error, file=sys.stderr, flush=True)
            return refusal(ocsp.OCSPResponseStatus.TRY_LATER)

    def _about(self, asked, algorithm, serial, authority):
        """The answer, where it is about a certificate of this authority."""
        row = self._row(serial, authority.identifier)
        if row is None:
            return None
        pem, status, reason, revoked_at = row
        certificate = x509.load_pem_x509_certificate(pem.encode() if isinstance(pem, str) else pem)
        revoked = status in ("revoked", b"revoked")
        now = datetime.datetime.now(UTC).replace(tzinfo=None, microsecond=0)
        signer, key = authority.signer.pair()
        builder = (
            ocsp.OCSPResponseBuilder()
            .add_response(
                cert=certificate,
                issuer=authority.certificate,
                algorithm=algorithm,
                cert_status=ocsp.OCSPCertStatus.REVOKED if revoked else ocsp.OCSPCertStatus.GOOD,
                this_update=now,
                next_update=now + LIFE,
                revocation_time=moment(revoked_at) if revoked else None,
                revocation_reason=REASONS.get(reason) if revoked else None,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, signer)
            .certificates([signer])
        )
        for extension in asked.extensions:
            if isinstance(extension.value, x509.OCSPNonce):
                builder = builder.add_extension(extension.value, critical=False)
        response = builder.sign(key, hashes.SHA256())
        if not same_issuer(asked, response):
            return None
        return response.public_bytes(serialization.Encoding.DER)

    def _row(self, serial, identifier):
        rows = self._rows(
            "SELECT pem, status, reason, revoked_at FROM certificates"
            " WHERE serial_number = ? AND authority_key_identifier = ?",
            str(serial),
            identifier,
        )
        return rows[0] if rows else None

    def revoked(self):
        rows = self._rows(
            "SELECT CAST(serial_number AS TEXT) || ' ' || CAST(authority_key_identifier AS TEXT)"
            " FROM certificates WHERE status = 'revoked' AND expiry > datetime('now')"
        )
        return "".join(f"{line}\n" for (line,) in [*rows, ("end",)]).encode()

    def _rows(self, query, *values):
        database = sqlite3.connect(f"file:{self.certdb}?mode=rw", timeout=LOCK_SECONDS, uri=True)
        try:
            return database.execute(query, values).fetchall()
        finally:
            database.close()


def read(path):
    return Path(path).read_bytes()


def refusal(status):
    return ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(
        serialization.Encoding.DER
    )


def same_issuer(asked, response):
    """Whether the question was about this authority: asked by hashes of its name and its key."""
    return (asked.issuer_name_hash, asked.issuer_key_hash) == (
        response.issuer_name_hash,
        response.issuer_key_hash,
    )


def moment(text):
    """CFSSL's time of a revocation, `2026-01-31 12:00:00.123+00:00`, as naive UTC."""
    text = text.decode() if isinstance(text, bytes) else str(text)
    return datetime.datetime.strptime(text[:19].replace("T", " "), "%Y-%m-%d %H:%M:%S")


class Handler(BaseHTTPRequestHandler):
    """One request of one connection."""

    server_version = "autojoin"
    sys_version = ""

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path in self.server.responder.crls:
            self._crl(path)
            return
        if path == "/revoked":
            self._revoked()
            return
        try:
            request = base64.b64decode(unquote(path[1:]), validate=True)
        except ValueError:
            request = b""
        if not request:
            self._send(404, "text/plain", b"OCSP by POST / or GET /BASE64, and /ca.crl\n")
            return
        self._send(200, OCSP_TYPE, self.server.responder.answer(request))

    do_HEAD = do_GET

    def do_POST(self):
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > LARGEST_REQUEST:
            self._send(413 if length.isdigit() else 411, "text/plain", b"a small body, please\n")
            return
        self._send(200, OCSP_TYPE, self.server.responder.answer(self.rfile.read(int(length))))

    def _crl(self, path):
        try:
            self._send(200, CRL_TYPE, read(self.server.responder.crls[path]))
        except OSError:
            self._send(503, "text/plain", b"there is no CRL yet\n")

    def _revoked(self):
        try:
            self._send(200, "text/plain", self.server.responder.revoked())
        except sqlite3.Error as error:
            print("responder: no answer:", error, file=sys.stderr, flush=True)
            self._send(503, "text/plain", b"the certdb can't be read\n")

    def _send(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        kept = int(LIFE.total_seconds()) if status == 200 and self.command == "GET" else 0
        self.send_header("Cache-Control", f"max-age={kept}" if kept else "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments):
        """Nothing: every relying party asks all the time."""


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A thread for each connection, a bounded number of them, each for a bounded time."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address, port, responder):
        self.responder = responder
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), Handler, bind_and_activate=False)
        if address == "::":
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.server_bind()
        self.server_activate()

    def process_request(self, request, client_address):
        self._free.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request, client_address):
        watch = threading.Timer(SECONDS, cut, [request])
        watch.daemon = True
        watch.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            watch.cancel()
            self._free.release()

    def handle_error(self, request, client_address):
        """A client that went away is no news; anything else is."""
        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, socket.timeout)):
            print("responder:", repr(error), file=sys.stderr, flush=True)


def cut(connection):
    """End a connection whose client is too slow, whatever its thread waits for."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def main(path):
    settings = json.loads(read(path))
    server = Server(settings["listen"], settings["port"], Responder(settings))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
