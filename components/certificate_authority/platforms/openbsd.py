"""OpenBSD: rc.d scripts, cron for jobs and for starting again what ended."""

from __future__ import annotations

from components import archive
from components.archive import File
from components.certificate_authority.platforms import cron, rcd
from components.certificate_authority.platforms.base import Job, Platform, Service


class OpenBsd(Platform):
    """rc.d scripts."""

    places = rcd.Places("/etc/rc.d/rc.subr")

    def service_files(self, service: Service) -> dict[str, File]:
        script = rcd.openbsd(service, self.places)
        return {rcd.name(service.name): archive.text(script, 0o555)}

    def job_files(self, job: Job) -> dict[str, File]:
        return cron.files(job)


OPENBSD = OpenBsd(
    name="openbsd",
    path="/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin",
    python="/usr/local/bin/python3",
    cfssl="/usr/local/bin/cfssl",
    programs="/usr/local/libexec/autojoin",
    configuration="/etc/autojoin",
    generated="/etc/kubernetes-ca",
    authority_state="/var/db/cfssl",
    gate_state="/var/db/join-gate",
    services="/etc/rc.d",
    # Daemons' users begin with _ there.
    authority_user="_cfssl",
    gate_user="_joingate",
    package_command="pkg_add",
    packages={
        "sqlite3": "sqlite3",
        "/usr/local/bin/python3": "python3",
        "python3:cryptography": "py3-cryptography",
    },
)
