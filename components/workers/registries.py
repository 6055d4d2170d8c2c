"""Where a node's containerd gets images: hosts.toml (containerd's docs/hosts.md)."""

from __future__ import annotations

import base64
import json

from components.workers.seed import Registry

FOLDER = "/etc/containerd/certs.d"


def files(registries: tuple[Registry, ...]) -> dict[str, str]:
    """Every file by its path. They may hold passwords."""
    found = {}
    for registry in registries:
        folder = _folder(registry)
        found[f"{folder}/hosts.toml"] = hosts(registry)
        if registry.authority_pem:
            found[f"{folder}/ca.pem"] = registry.authority_pem
    return found


def hosts(registry: Registry) -> str:
    """CA and password are the mirrors' where there are any: the registry itself never sees them."""
    itself = None if registry.name == "default" else f"https://{registry.name}"
    mirrors = list(registry.mirrors)
    if not mirrors:
        lines = _server(itself) + _trust(registry, "")
    elif registry.fallback:
        lines = _server(itself)
    else:
        # Without a server of its own the file would leave the registry itself to be asked last.
        lines = _server(mirrors[-1]) + _trust(registry, "")
    for url in mirrors:
        table = f"host.{_text(url)}"
        lines += ["", f"[{table}]", *_trust(registry, f"{table}.")]
    return "\n".join(lines).lstrip("\n") + "\n"


def _server(url: str | None) -> list[str]:
    return [f"server = {_text(url)}"] if url else []


def _trust(registry: Registry, prefix: str) -> list[str]:
    lines = ['capabilities = ["pull", "resolve"]']
    if registry.authority_pem:
        lines.append(f"ca = {_text(f'{_folder(registry)}/ca.pem')}")
    if registry.user is not None:
        pair = f"{registry.user}:{registry.password or ''}".encode()
        header = f"Basic {base64.b64encode(pair).decode()}"
        lines += [f"[{prefix}header]", f"Authorization = {_text(header)}"]
    return lines


def _folder(registry: Registry) -> str:
    return f"{FOLDER}/{'_default' if registry.name == 'default' else registry.name}"


def _text(value: str) -> str:
    """A string of JSON is one of TOML."""
    return json.dumps(value)
