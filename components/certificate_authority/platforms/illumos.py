"""illumos with SMF; paths and package names are those of OmniOS."""

from __future__ import annotations

from components import archive
from components.archive import File
from components.certificate_authority.platforms import cron, smf
from components.certificate_authority.platforms.base import Job, Platform, Service


class Illumos(Platform):
    """SMF manifests. illumos' startd has no periodic services, so jobs run by cron."""

    def service_files(self, service: Service) -> dict[str, File]:
        return {f"autojoin-{service.name}.xml": archive.text(smf.manifest(service), 0o444)}

    def job_files(self, job: Job) -> dict[str, File]:
        return cron.files(job)


ILLUMOS = Illumos(
    name="illumos",
    # The XPG4 tools first: df -P, grep -q and id -u are theirs.
    path="/usr/xpg4/bin:/opt/ooce/bin:/usr/sbin:/usr/bin:/sbin",
    python="/usr/bin/python3",
    cfssl="/opt/ooce/bin/cfssl",
    programs="/opt/autojoin/lib",
    configuration="/etc/opt/ooce/autojoin",
    generated="/etc/opt/ooce/kubernetes-ca",
    authority_state="/var/opt/ooce/cfssl",
    gate_state="/var/opt/ooce/join-gate",
    services="/lib/svc/manifest/site",
    authority_user="cfssl",
    gate_user="joingate",
    package_command="pkg install",
    packages={
        "sqlite3": "database/sqlite-3",
        "openssl": "library/security/openssl-3",
        "/usr/bin/python3": "runtime/python-312",
        "python3:cryptography": "library/python-3/cryptography-312",
    },
)
