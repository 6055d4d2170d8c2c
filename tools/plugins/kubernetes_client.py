"""A small client of the Kubernetes API: HTTPS, discovery, apply, delete, wait.

Plain data in and out; imports no Pulumi. Standard library only, since a plugin starts once for
each command that a person types. Safe to use from several threads.
"""

import base64
import contextlib
import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from tools.plugins.kubernetes_access import AccessError, ClusterAccess, tls_context

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0
RETRIES = 6
RETRY_CODES = frozenset({429, 502, 503, 504})

Object = dict[str, Any]


class ApiError(Exception):
    """The API server refused: `code` is the HTTP status, `reason` Kubernetes' own word for it."""

    def __init__(self, code: int, reason: str, message: str, causes: list[Object]) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.causes = causes


class Unreachable(Exception):
    """No API server answers there, or none that we may trust; the message says why."""


class KindMissing(Exception):
    """The API server serves no such kind (its CustomResourceDefinition isn't there)."""

    def __init__(self, api_version: str, kind: str) -> None:
        super().__init__(f"the API server serves no {kind} in {api_version}")
        self.api_version = api_version
        self.kind = kind


@dataclass(frozen=True)
class Resource:
    """Where objects of one kind live: `plural` is the name in the URL."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool

    def path(self, namespace: str | None, name: str | None = None) -> str:
        root = "/api/" if "/" not in self.api_version else "/apis/"
        parts = [root + self.api_version]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        return "/".join(parts)


class Client:
    """One API server. Every method may raise ApiError and Unreachable."""

    def __init__(self, access: ClusterAccess) -> None:
        self.access = access
        self._local = threading.local()
        self._lock = threading.Lock()
        self._tls: ssl.SSLContext | None = None
        self._kinds: dict[str, dict[str, Resource]] = {}
        self._unreachable: str | None = None
        self._probed = False
        self._confirming = threading.Lock()
        self._confirmed = False

    # -- reachability -----------------------------------------------------------------------

    def unreachable_reason(self) -> str | None:
        """Why the cluster can't be used, or None. Asked once: a preview of N resources against a
        cluster that is off must not wait N times."""
        with self._lock:
            if not self._probed:
                try:
                    self._once("GET", "/version", None, {})
                except Unreachable as error:
                    self._unreachable = str(error)
                except ApiError as error:
                    # An answer, even a refusal, is a cluster that is there.
                    self._unreachable = error.message if error.code == 401 else None
                self._probed = True
            return self._unreachable

    def confirm_unreachable(self) -> str | None:
        """Like unreachable_reason, but not before a few attempts: for what can't be foretold
        without the cluster, an API server that is just restarting is worth waiting for."""
        if self.unreachable_reason() is None:
            return None
        with self._confirming:
            if not self._confirmed and self.unreachable_reason() is not None:
                self._confirmed = True
                with contextlib.suppress(Unreachable, ApiError):
                    self.request("GET", "/version")
                    with self._lock:
                        self._unreachable = None
        return self.unreachable_reason()

    # -- discovery --------------------------------------------------------------------------

    def resource(self, api_version: str, kind: str) -> Resource:
        """Find the kind. Raises KindMissing; what was missing is asked for anew next time."""
        with self._lock:
            found = self._kinds.get(api_version, {}).get(kind)
        if found is not None:
            return found
        kinds = self._discover(api_version)
        with self._lock:
            self._kinds[api_version] = kinds
        if kind not in kinds:
            raise KindMissing(api_version, kind)
        return kinds[kind]

    def forget(self, api_version: str) -> None:
        """Drop what was learnt of one API group: its definitions have changed."""
        with self._lock:
            self._kinds.pop(api_version, None)

    def _discover(self, api_version: str) -> dict[str, Resource]:
        path = ("/apis/" if "/" in api_version else "/api/") + api_version
        try:
            listing = self.request("GET", path)
        except ApiError as error:
            if error.code == 404:
                return {}
            raise
        return {
            str(entry["kind"]): Resource(
                api_version, str(entry["kind"]), str(entry["name"]), bool(entry["namespaced"])
            )
            for entry in listing.get("resources") or []
            if "/" not in entry["name"]
        }

    # -- objects ----------------------------------------------------------------------------

    def get(self, resource: Resource, namespace: str | None, name: str) -> Object | None:
        """The live object, or None where there is none."""
        try:
            return self.request("GET", resource.path(namespace, name))
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    def apply(
        self,
        resource: Resource,
        body: Object,
        *,
        field_manager: str,
        force: bool = False,
        dry_run: bool = False,
        warn: Callable[[str], None] | None = None,
    ) -> Object:
        """Server-side apply. `warn` gets the API server's warnings, one text each."""
        metadata = body["metadata"]
        query = {"fieldManager": field_manager, "fieldValidation": "Warn"}
        if force:
            query["force"] = "true"
        if dry_run:
            query["dryRun"] = "All"
        return self.request(
            "PATCH",
            resource.path(metadata.get("namespace"), metadata["name"]),
            body=body,
            query=query,
            content_type="application/apply-patch+yaml",
            warn=warn,
        )

    def delete(
        self, resource: Resource, namespace: str | None, name: str, propagation: str
    ) -> bool:
        """Ask for deletion. False where the object was not there."""
        options = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": propagation,
        }
        try:
            self.request("DELETE", resource.path(namespace, name), body=options)
        except ApiError as error:
            if error.code == 404:
                return False
            raise
        return True

    # -- requests ---------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        warn: Callable[[str], None] | None = None,
    ) -> Object:
        """One request, repeated where the API server is busy or the connection broke.

        Every request made here may be repeated: reads, applies and deletes by name.
        """
        target = path + ("?" + urlencode(query) if query else "")
        headers = {"Content-Type": content_type} if body is not None else {}
        data = json.dumps(body).encode() if body is not None else None
        pause = 0.25
        for attempt in range(RETRIES + 1):
            try:
                return self._once(method, target, data, headers, warn)
            except Unreachable:
                if attempt == RETRIES:
                    raise
            except ApiError as error:
                if error.code not in RETRY_CODES or attempt == RETRIES:
                    raise
            time.sleep(pause)
            pause = min(pause * 2, 4.0)
        raise AssertionError("the last attempt returns or raises")

    def _once(
        self,
        method: str,
        target: str,
        data: bytes | None,
        headers: Mapping[str, str],
        warn: Callable[[str], None] | None = None,
    ) -> Object:
        everything = {"Accept": "application/json", **self._authorization(), **headers}
        try:
            connection = self._connection()
            connection.request(method, self.access.prefix + target, data, everything)
            answer = connection.getresponse()
            content = answer.read()
        except AccessError as error:
            raise Unreachable(str(error)) from None
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            raise Unreachable(f"{self.access.server}: {_network_reason(error)}") from None
        if warn is not None:
            for text in answer.headers.get_all("Warning") or []:
                warn(_warning_text(text))
        return _parse(answer.status, answer.reason, content)

    def _connection(self) -> http.client.HTTPConnection:
        existing: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if existing is not None:
            return existing
        access = self.access
        connection: http.client.HTTPConnection
        if access.server.startswith("https:"):
            connection = _TlsConnection(access, self._context())
        else:
            connection = http.client.HTTPConnection(
                access.host, access.port, timeout=CONNECT_SECONDS
            )
        connection.connect()
        connection.sock.settimeout(ANSWER_SECONDS)
        self._local.connection = connection
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = tls_context(self.access)
        return self._tls

    def _drop(self) -> None:
        connection = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is not None:
            connection.close()

    def _authorization(self) -> dict[str, str]:
        if self.access.token:
            return {"Authorization": f"Bearer {self.access.token}"}
        if self.access.user and self.access.password:
            pair = f"{self.access.user}:{self.access.password}".encode()
            return {"Authorization": "Basic " + base64.b64encode(pair).decode()}
        return {}


class _TlsConnection(http.client.HTTPSConnection):
    """HTTPS to a server whose certificate may carry another name (`tls-server-name`)."""

    def __init__(self, access: ClusterAccess, context: ssl.SSLContext) -> None:
        super().__init__(access.host, access.port, timeout=CONNECT_SECONDS, context=context)
        self._tls_context = context
        self._tls_name = access.server_name or access.host

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls_context.wrap_socket(self.sock, server_hostname=self._tls_name)


def _network_reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


def _warning_text(header: str) -> str:
    """`299 - "text"` as the API server sends it, reduced to the text."""
    _, _, quoted = header.partition('"')
    return quoted.rstrip('"').replace('\\"', '"') or header


def _parse(status: int, reason: str, content: bytes) -> Object:
    try:
        document = json.loads(content) if content else {}
    except ValueError:
        document = {}
    if not isinstance(document, dict):
        document = {}
    if status < 300:
        return document
    details = document.get("details") or {}
    text = content.decode(errors="replace").strip()
    message = str(document.get("message") or text or reason)
    raise ApiError(
        status, str(document.get("reason") or reason), message[:2000], details.get("causes") or []
    )
