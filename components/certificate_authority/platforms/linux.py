"""Linux with systemd; package names are Debian's."""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath

from components import archive
from components.archive import File
from components.certificate_authority.platforms import systemd
from components.certificate_authority.platforms.base import Job, Platform, Service


class Linux(Platform):
    """systemd units and timers."""

    def service_files(self, service: Service) -> dict[str, File]:
        directives: dict[str, systemd.Value] = {
            "User": service.user,
            "Group": service.user,
            "ExecStart": shlex.join(service.command),
            **_state(service.state),
            "Restart": "on-failure",
            "RestartSec": "1",
            "TimeoutStopSec": str(service.stop_seconds),
            "LimitNOFILE": str(service.open_files),
            **systemd.HARDENED,
        }
        if service.hidden:
            directives["InaccessiblePaths"] = [f"-{path}" for path in service.hidden]
        after = [f"{name}.service" for name in service.after]
        unit: dict[str, systemd.Value] = {
            "Description": service.description,
            "After": " ".join(["network.target", *after]),
        }
        if after:
            unit["Wants"] = " ".join(after)
        sections: dict[str, dict[str, systemd.Value]] = {
            "Unit": unit,
            "Service": directives,
            "Install": {"WantedBy": "multi-user.target"},
        }
        return {f"{service.name}.service": archive.text(systemd.unit(sections), 0o644)}

    def job_files(self, job: Job) -> dict[str, File]:
        directives: dict[str, systemd.Value] = {
            "Type": "oneshot",
            "ExecStart": shlex.join(job.command),
            "ReadWritePaths": " ".join(job.writes),
            # Its coming and going, twice a minute, is no news; what it says itself is.
            "LogLevelMax": "notice",
            **(systemd.HARDENED_ROOT if job.user == "root" else systemd.HARDENED),
        }
        if job.user != "root":
            directives |= {"User": job.user, "Group": job.user}
        timer: dict[str, dict[str, systemd.Value]] = {
            "Unit": {"Description": f"{job.description}, every {job.every}"},
            "Timer": _TIMES[job.every],
            "Install": {"WantedBy": "timers.target"},
        }
        service: dict[str, dict[str, systemd.Value]] = {
            "Unit": {"Description": job.description},
            "Service": directives,
        }
        return {
            f"{job.name}.service": archive.text(systemd.unit(service), 0o644),
            f"{job.name}.timer": archive.text(systemd.unit(timer), 0o644),
        }


def _state(folder: str) -> dict[str, systemd.Value]:
    """`folder` as systemd's state directory where it is one."""
    path = PurePosixPath(folder)
    if path.parent == PurePosixPath("/var/lib"):
        return {
            "StateDirectory": path.name,
            "StateDirectoryMode": "0700",
            "WorkingDirectory": folder,
        }
    return {"ReadWritePaths": folder, "WorkingDirectory": folder}


# Twice a minute, so that what is waited for is there within one.
_TIMES: dict[str, dict[str, systemd.Value]] = {
    "minute": {"OnActiveSec": "0", "OnUnitActiveSec": "30", "AccuracySec": "1"},
    "day": {"OnCalendar": "daily", "RandomizedDelaySec": "1h", "Persistent": "true"},
}

LINUX = Linux(
    name="linux",
    path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    python="/usr/bin/python3",
    cfssl="/usr/bin/cfssl",
    programs="/usr/local/lib/autojoin",
    configuration="/etc/autojoin",
    generated="/etc/kubernetes-ca",
    authority_state="/var/lib/cfssl",
    gate_state="/var/lib/join-gate",
    services="/etc/systemd/system",
    authority_user="cfssl",
    gate_user="join-gate",
    package_command="apt-get install --yes",
    packages={
        "sqlite3": "sqlite3",
        "openssl": "openssl",
        "useradd": "passwd",
        "systemctl": "systemd",
        "/usr/bin/python3": "python3",
        "python3:cryptography": "python3-cryptography",
    },
)
