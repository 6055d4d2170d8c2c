"""A boot server, from exactly what docs/workers.md says of dnsmasq and the web root."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lab.debian_installer import web_server
from lab.machine import Network
from tests.e2e.conftest import CHECKOUT

# How dnsmasq's lines for one node, and those for every node, begin in the document.
ONE_NODE, EVERY_NODE = "dhcp-range=192.168.10.0,static", "dhcp-range=192.168.10.200"


@contextmanager
def boot_server(
    network: Network, folder: Path, recipe: str, changes: Mapping[str, str]
) -> Iterator[None]:
    """dnsmasq and a web server of `folder/http`; `changes` is what of the document's is elsewhere
    here."""
    (folder / "tftp").mkdir()
    (folder / "tftp/ipxe.efi").write_bytes(Path("/usr/lib/ipxe/ipxe.efi").read_bytes())
    here = {"/srv/tftp": f"{folder}/tftp", **changes}
    (folder / "dnsmasq.conf").write_text(documented(recipe, here))
    command = ["dnsmasq", "--keep-in-foreground", f"--conf-file={folder}/dnsmasq.conf", "--port=0"]
    command += [f"--interface={network.bridge}", "--bind-interfaces", "--user=root"]
    command += ["--log-facility=-", f"--dhcp-leasefile={folder}/leases"]
    with (folder / "dnsmasq.log").open("wb") as log:
        dnsmasq = subprocess.Popen([*network.inside, *command], stdout=log, stderr=log)
    try:
        with web_server(network, folder / "http", folder / "log"):
            yield
    finally:
        dnsmasq.terminate()
        dnsmasq.wait()


def documented(recipe: str, here: Mapping[str, str]) -> str:
    """dnsmasq's configuration as the document has it, with what is elsewhere here."""
    document = (CHECKOUT / "docs/workers.md").read_text()
    start = document.index(recipe)
    text = document[start : document.index("```", start)]
    for value, other in here.items():
        assert value in text
        text = text.replace(value, other)
    return text


def times_served(folder: Path, path: str) -> int:
    """How often the web server has given away a file whose path ends as this pattern says."""
    log = folder / "log"
    return len(re.findall(f'{path} HTTP/1.1" 200', log.read_text())) if log.exists() else 0
