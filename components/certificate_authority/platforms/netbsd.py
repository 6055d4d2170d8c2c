"""NetBSD: rc.d scripts, cron for jobs and for starting again what ended; packages of pkgsrc."""

from __future__ import annotations

from components import archive
from components.archive import File
from components.certificate_authority.platforms import cron, rcd
from components.certificate_authority.platforms.base import Job, Platform, Service


class NetBsd(Platform):
    """rc.d scripts."""

    places = rcd.Places("/etc/rc.subr")

    def service_files(self, service: Service) -> dict[str, File]:
        as_user = (self.python, "-I", f"{self.programs}/as-user.py")
        script = rcd.netbsd(service, self.places, as_user)
        return {rcd.name(service.name): archive.text(script, 0o555)}

    def job_files(self, job: Job) -> dict[str, File]:
        return cron.files(job)


NETBSD = NetBsd(
    name="netbsd",
    path="/sbin:/bin:/usr/sbin:/usr/bin:/usr/pkg/sbin:/usr/pkg/bin",
    # pkgsrc's Python has no unversioned name.
    python="/usr/pkg/bin/python3.12",
    cfssl="/usr/pkg/bin/cfssl",
    programs="/usr/pkg/libexec/autojoin",
    configuration="/usr/pkg/etc/autojoin",
    generated="/usr/pkg/etc/kubernetes-ca",
    authority_state="/var/db/cfssl",
    gate_state="/var/db/join-gate",
    services="/etc/rc.d",
    authority_user="_cfssl",
    gate_user="_joingate",
    package_command="pkgin install",
    packages={
        "sqlite3": "sqlite3",
        "openssl": "openssl",
        "/usr/pkg/bin/python3.12": "python312",
        "python3:cryptography": "py312-cryptography",
        "python3:sqlite3": "py312-sqlite3",
    },
)
