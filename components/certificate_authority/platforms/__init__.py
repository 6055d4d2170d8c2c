"""The platforms of the certificate authority's host, one file each."""

from components.certificate_authority.platforms.base import Job, Platform, Service
from components.certificate_authority.platforms.freebsd import FREEBSD
from components.certificate_authority.platforms.illumos import ILLUMOS
from components.certificate_authority.platforms.linux import LINUX
from components.certificate_authority.platforms.netbsd import NETBSD
from components.certificate_authority.platforms.openbsd import OPENBSD

PLATFORMS: dict[str, Platform] = {
    platform.name: platform for platform in (ILLUMOS, LINUX, FREEBSD, OPENBSD, NETBSD)
}

__all__ = ["LINUX", "PLATFORMS", "Job", "Platform", "Service"]
