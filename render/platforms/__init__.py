"""The platforms of the certificate authority's host, one file each."""

from render.platforms.base import Job, Platform, Service
from render.platforms.linux import LINUX

PLATFORMS: dict[str, Platform] = {"linux": LINUX}

__all__ = ["LINUX", "PLATFORMS", "Job", "Platform", "Service"]
