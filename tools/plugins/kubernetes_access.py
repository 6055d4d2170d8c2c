"""Where the cluster is and who we are there: a kubeconfig, reduced to what one client needs.

Plain data in and out; imports no Pulumi.
"""

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml


class AccessError(Exception):
    """The kubeconfig can't be used; the message says what is wrong and where."""


@dataclass(frozen=True)
class ClusterAccess:
    """One API server and one identity.

    `server` is a URL without a trailing slash; certificates and keys are PEM text.
    """

    server: str
    namespace: str
    authority: str | None = None
    certificate: str | None = None
    key: str | None = None
    token: str | None = None
    user: str | None = None
    password: str | None = None
    verify: bool = True
    server_name: str | None = None

    @property
    def host(self) -> str:
        return urlsplit(self.server).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.server)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def prefix(self) -> str:
        """The path under which the API lives (behind a proxy), without a trailing slash."""
        return urlsplit(self.server).path.rstrip("/")


def load(
    kubeconfig: str | None, context: str | None = None, cluster: str | None = None
) -> ClusterAccess:
    """Read `kubeconfig`, which is a path, or the contents as YAML or JSON.

    None means what KUBECONFIG names, else ~/.kube/config. Raises AccessError.
    """
    text, where, directory = _source(kubeconfig)
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise AccessError(f"kubeconfig {where} is not YAML{line}") from None
    if not isinstance(document, Mapping):
        raise AccessError(f"kubeconfig {where} is not a map but {type(document).__name__}")
    return _reduce(document, where, directory, context, cluster)


def looks_like_contents(kubeconfig: str) -> bool:
    """Whether the provider's `kubeconfig` is the file's contents rather than its path."""
    return "\n" in kubeconfig or kubeconfig.lstrip().startswith("{")


def _source(kubeconfig: str | None) -> tuple[str, str, Path]:
    if kubeconfig and looks_like_contents(kubeconfig):
        return kubeconfig, "(given as contents)", Path.cwd()
    named = kubeconfig or os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
    path = Path(named or "~/.kube/config").expanduser()
    try:
        return path.read_text(encoding="utf-8"), str(path), path.parent
    except OSError as error:
        raise AccessError(f"kubeconfig {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise AccessError(f"kubeconfig {path} is not text") from None


def _named(document: Mapping[str, Any], kind: str, name: str, where: str) -> Mapping[str, Any]:
    entries = document.get(f"{kind}s") or []
    for entry in entries:
        if isinstance(entry, Mapping) and entry.get("name") == name:
            value = entry.get(kind)
            return value if isinstance(value, Mapping) else {}
    known = ", ".join(str(e.get("name")) for e in entries if isinstance(e, Mapping)) or "none"
    raise AccessError(f"kubeconfig {where} has no {kind} named {name!r} (it has: {known})")


def _reduce(
    document: Mapping[str, Any],
    where: str,
    directory: Path,
    context: str | None,
    cluster: str | None,
) -> ClusterAccess:
    name = context or document.get("current-context")
    if not name:
        raise AccessError(f"kubeconfig {where} has no current-context; set one or give `context`")
    chosen = _named(document, "context", str(name), where)
    target = _named(document, "cluster", str(cluster or chosen.get("cluster")), where)
    identity: Mapping[str, Any] = {}
    if chosen.get("user"):
        identity = _named(document, "user", str(chosen["user"]), where)
    for unsupported in ("exec", "auth-provider"):
        if identity.get(unsupported):
            raise AccessError(
                f"kubeconfig {where} signs in by `{unsupported}`, which this stand-in plugin does "
                "not serve; use a client certificate or a token"
            )
    server = str(target.get("server") or "").rstrip("/")
    if urlsplit(server).scheme not in ("http", "https") or not urlsplit(server).hostname:
        raise AccessError(f"kubeconfig {where}: cluster server {server!r} is not an http(s) URL")
    if target.get("proxy-url"):
        raise AccessError(f"kubeconfig {where}: proxy-url is not served by this stand-in plugin")
    return ClusterAccess(
        server=server,
        namespace=str(chosen.get("namespace") or "default"),
        authority=_pem(target, "certificate-authority", where, directory),
        certificate=_pem(identity, "client-certificate", where, directory),
        key=_pem(identity, "client-key", where, directory),
        token=_token(identity, where, directory),
        user=identity.get("username"),
        password=identity.get("password"),
        verify=not target.get("insecure-skip-tls-verify"),
        server_name=target.get("tls-server-name"),
    )


def _pem(entry: Mapping[str, Any], field: str, where: str, directory: Path) -> str | None:
    data = entry.get(f"{field}-data")
    if data:
        try:
            return base64.b64decode(data, validate=False).decode("ascii")
        except (binascii.Error, UnicodeDecodeError, TypeError, ValueError):
            raise AccessError(f"kubeconfig {where}: {field}-data is not base64 of PEM") from None
    return _file(entry, field, where, directory)


def _token(entry: Mapping[str, Any], where: str, directory: Path) -> str | None:
    if entry.get("token"):
        return str(entry["token"])
    text = _file(entry, "tokenFile", where, directory)
    return text.strip() if text else None


def _file(entry: Mapping[str, Any], field: str, where: str, directory: Path) -> str | None:
    named = entry.get(field)
    if not named:
        return None
    path = directory / Path(str(named)).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise AccessError(f"kubeconfig {where}: {field} {path} can't be read: {reason}") from None


def tls_context(access: ClusterAccess) -> ssl.SSLContext:
    """The TLS settings for `access`. Raises AccessError where its PEMs don't parse."""
    try:
        context = ssl.create_default_context(cadata=access.authority)
        if not access.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if access.certificate and access.key:
            _load_pair(context, access.certificate, access.key)
    except (ssl.SSLError, ValueError) as error:
        raise AccessError(f"kubeconfig: certificate or key can't be used: {error}") from None
    return context


def _load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    # Python's ssl takes a client pair from files only; this one is never on a disk's tree.
    with tempfile.TemporaryFile() as pair:
        pair.write(certificate.rstrip().encode() + b"\n" + key.encode())
        pair.flush()
        context.load_cert_chain(f"/proc/self/fd/{pair.fileno()}")


def to_kubeconfig(access: ClusterAccess, namespace: str | None = None) -> str:
    """`access` as a self-contained kubeconfig (for helm). Holds secrets: write it 0600."""

    def encoded(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    cluster: dict[str, Any] = {"server": access.server}
    if not access.verify:
        cluster["insecure-skip-tls-verify"] = True
    elif access.authority:
        cluster["certificate-authority-data"] = encoded(access.authority)
    if access.server_name:
        cluster["tls-server-name"] = access.server_name
    user: dict[str, Any] = {}
    if access.certificate and access.key:
        user["client-certificate-data"] = encoded(access.certificate)
        user["client-key-data"] = encoded(access.key)
    for field, value in (
        ("token", access.token),
        ("username", access.user),
        ("password", access.password),
    ):
        if value:
            user[field] = value
    context = {"cluster": "cluster", "user": "user", "namespace": namespace or access.namespace}
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "context",
            "clusters": [{"name": "cluster", "cluster": cluster}],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "context", "context": context}],
        }
    )
