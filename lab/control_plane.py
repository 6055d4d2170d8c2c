"""The external control plane: etcd, kube-apiserver, kube-controller-manager, kube-scheduler.

They are services of the hypervisor (unit files under files/hypervisor) and start with it.
"""

from __future__ import annotations

import http.client
import ssl

from lab import pki
from lab.place import Place
from lab.remote import remote
from lab.waiting import wait_for
from tools.errors import LabError

READY_SECONDS = 120.0
LINE_WIDTH = 240
SERVICES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


def ready(place: Place) -> tuple[bool, str]:
    """Whether the API server says that it is ready; else what it says."""
    keys = pki.folder(place)
    context = ssl.create_default_context(cafile=str(keys / "ca.pem"))
    context.load_cert_chain(keys / "admin.pem", keys / "admin-key.pem")
    address = str(place.hypervisor_address)
    connection = http.client.HTTPSConnection(address, 6443, timeout=2, context=context)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace").strip()
        return answer.status == 200, text
    except (OSError, http.client.HTTPException) as error:
        return False, str(error)
    finally:
        connection.close()


def start(place: Place) -> None:
    """Start whichever of the services does not run."""
    command = f"systemctl start --no-block {' '.join(SERVICES)}"
    remote(place, command, what="starting the control plane")


def await_ready(place: Place) -> None:
    """Return once the API server is ready; LabError with the journals' ends where it is not."""

    def details() -> str:
        return f"{ready(place)[1]}\n{journal(place)}"

    failure = f"the API server at {place.api_server} is not ready"
    wait_for(lambda: ready(place)[0], READY_SECONDS, failure, details)


def journal(place: Place, lines: int = 8) -> str:
    """The last lines of the control plane's services."""
    units = " ".join(f"-u {name}" for name in SERVICES)
    command = f"journalctl --no-pager -o short -n {lines} {units}"
    try:
        text = remote(place, command, what="reading the journal", seconds=15)
        return "\n".join(line[:LINE_WIDTH] for line in text.splitlines())
    except LabError as error:
        return str(error)
