"""systemd unit files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Value = str | Sequence[str]

# For a daemon that needs the network, its own state and nothing else of the machine. All of it
# holds in a container too, where the service manager has no more than the container's rights.
HARDENED: Mapping[str, Value] = {
    "UMask": "0077",
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "ProtectClock": "yes",
    "ProtectControlGroups": "yes",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectProc": "invisible",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "RemoveIPC": "yes",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "SystemCallArchitectures": "native",
    "SystemCallFilter": "@system-service",
    "SystemCallErrorNumber": "EPERM",
}

# For a job of root's that puts files in place for others and restarts a service.
HARDENED_ROOT: Mapping[str, Value] = {
    **HARDENED,
    "CapabilityBoundingSet": "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_SETUID CAP_SETGID",
}


def unit(sections: Mapping[str, Mapping[str, Value]]) -> str:
    """A unit file: section -> directive -> value; a sequence repeats the directive.

    Raises ValueError on a value with a line break, which would become a directive of its own.
    """
    parts = []
    for section, directives in sections.items():
        lines = [f"[{section}]"]
        for name, value in directives.items():
            for item in [value] if isinstance(value, str) else value:
                if "\n" in item or item.endswith("\\"):
                    raise ValueError(f"{section}.{name}: cannot stand in a unit file: {item!r}")
                lines.append(f"{name}={item}")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)
