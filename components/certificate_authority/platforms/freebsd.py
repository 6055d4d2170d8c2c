"""FreeBSD: rc.d scripts with daemon(8), cron for jobs."""

from __future__ import annotations

from components import archive
from components.archive import File
from components.certificate_authority.platforms import cron, rcd
from components.certificate_authority.platforms.base import Job, Platform, Service


class FreeBsd(Platform):
    """rc.d scripts."""

    places = rcd.Places("/etc/rc.subr")

    def service_files(self, service: Service) -> dict[str, File]:
        script = rcd.freebsd(service, self.places)
        return {rcd.name(service.name): archive.text(script, 0o555)}

    def job_files(self, job: Job) -> dict[str, File]:
        return cron.files(job)


FREEBSD = FreeBsd(
    name="freebsd",
    path="/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin",
    python="/usr/local/bin/python3",
    cfssl="/usr/local/bin/cfssl",
    programs="/usr/local/libexec/autojoin",
    configuration="/usr/local/etc/autojoin",
    generated="/usr/local/etc/kubernetes-ca",
    authority_state="/var/db/cfssl",
    gate_state="/var/db/join-gate",
    services="/usr/local/etc/rc.d",
    authority_user="cfssl",
    gate_user="joingate",
    package_command="pkg install -y",
    packages={
        "sqlite3": "sqlite3",
        "/usr/local/bin/python3": "python3",
        "python3:cryptography": "py311-cryptography",
        "python3:sqlite3": "py311-sqlite3",
    },
)
