"""From where a plain image gets its packages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from stack.models import Packages, Worker

_KUBERNETES = "https://pkgs.k8s.io/core:/stable:/v{minor}/deb/"
_DISTRIBUTION = "http://deb.debian.org/debian"  # Ubuntu's are at a name too
_SECURITY = "http://security.debian.org/debian-security"
_URL = re.compile(r"\bhttps?://[^\s',]+")


@dataclass(frozen=True)
class Debian:
    """From where an installer gets Debian; no `security` where a mirror is given without."""

    mirror: str
    security: str | None
    proxy: str


def debian(user_data: Mapping[str, Any]) -> Debian:
    """As cloud-init is told in a worker's user-data, by its `apt`."""
    apt = user_data.get("apt")
    apt = apt if isinstance(apt, dict) else {}
    mirror = next(iter(_mirrors(apt.get("primary"))), None)
    security = next(iter(_mirrors(apt.get("security"))), None)
    return Debian(
        (mirror or _DISTRIBUTION).rstrip("/"),
        security or (None if mirror else _SECURITY),
        _proxy(apt, mirror or _DISTRIBUTION),
    )


def repository(packages: Packages, kubernetes_version: str) -> str:
    """The URL of kubelet's packages."""
    minor = kubernetes_version.rpartition(".")[0]
    return packages.repository or _KUBERNETES.format(minor=minor)


def hosts(packages: Packages, kubernetes_version: str, worker: Worker) -> set[str]:
    """Names and addresses that the node asks for packages: mirrors, or the proxies before them."""
    apt = worker.user_data.get("apt")
    apt = apt if isinstance(apt, dict) else {}
    # Debian's images leave their sources as they are, unless told.
    kept = apt.get("preserve_sources_list", worker.os_release.startswith("debian"))
    distribution = [_DISTRIBUTION] if kept else _distribution(apt)
    urls = [repository(packages, kubernetes_version), *distribution]
    return {_host(_proxy(apt, url) or url) for url in urls}


def _distribution(apt: dict[str, Any]) -> list[str]:
    """The URLs of Debian or Ubuntu, as cloud-init takes them: a list of its own, or mirrors.

    Without `security` the mirrors of `primary` are those of security updates too.
    """
    text = str(apt.get("sources_list") or "")
    urls = _URL.findall(text)
    if text and "$" not in text:
        return urls or [_DISTRIBUTION]
    mirrors = [*_mirrors(apt.get("primary")), *_mirrors(apt.get("security"))]
    return urls + (mirrors if _mirrors(apt.get("primary")) else [_DISTRIBUTION])


def _mirrors(entries: Any) -> list[str]:
    """The URLs of cloud-init's list of mirrors, whatever it is: nobody has looked at it so far."""
    found = [it for it in entries if isinstance(it, dict)] if isinstance(entries, list) else []
    return [url for it in found for url in _URL.findall(f"{it.get('uri')} {it.get('search')}")]


def _proxy(apt: dict[str, Any], url: str) -> str:
    """apt's proxy for a URL; its method for https has that of http where it has none of its own."""
    own = apt.get("https_proxy") if url.startswith("https:") else None
    return str(own or apt.get("http_proxy") or apt.get("proxy") or "")


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # brackets that hold no address
        return ""
