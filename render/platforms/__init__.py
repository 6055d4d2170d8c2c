"""The platforms of the certificate authority's host, one file each."""

from render.platforms.base import Job, Platform, Service
from render.platforms.freebsd import FREEBSD
from render.platforms.illumos import ILLUMOS
from render.platforms.linux import LINUX
from render.platforms.netbsd import NETBSD
from render.platforms.openbsd import OPENBSD

PLATFORMS: dict[str, Platform] = {
    platform.name: platform for platform in (ILLUMOS, LINUX, FREEBSD, OPENBSD, NETBSD)
}

__all__ = ["LINUX", "PLATFORMS", "Job", "Platform", "Service"]
