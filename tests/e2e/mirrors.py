"""Mirrors of the packages that a worker from a bare image installs, and such a worker."""

from __future__ import annotations

from typing import Any

from lab import plain_image
from tests.e2e.conftest import Lab

IMAGE, PACKAGES = "/var/lib/autojoin/image-plain", "/var/lib/autojoin/packages"
PORT = 8000


def serve(lab: Lab) -> None:
    """On the hypervisor: Debian's, and one of the nodes' own."""
    address = lab.config["autojoin:provisioning"]["hypervisor"]["address"]
    lab.on_hypervisor(f"systemd-run python3 -m http.server -b {address} -d {PACKAGES} {PORT}")


def make_plain(config: dict[str, Any], name: str) -> None:
    """Let the worker `name` begin with a bare image, and have its packages from the mirrors."""
    mirror = f"http://{config['autojoin:provisioning']['hypervisor']['address']}:{PORT}"
    keyring = "/etc/apt/keyrings/mirror.asc"
    keys = plain_image.packages()
    config["autojoin:cluster"]["packages"] = {
        "repository": f"{mirror}/kubernetes/",
        "key": str(keys / "kubernetes/Release.key"),
    }
    config["autojoin:workers"][name] |= {
        "imageKind": "plain",
        "osRelease": "debian-12",
        "image": f"/var/lib/autojoin/layers/plain:{IMAGE}",
        "userData": {
            "write_files": [
                {"path": keyring, "content": (keys / "debian/Release.key").read_text()}
            ],
            "apt": {
                "preserve_sources_list": False,
                "sources_list": f"deb [signed-by={keyring}] {mirror}/debian ./\n",
            },
        },
    }
