"""What a platform of the certificate authority's host is: named facts, and how it runs things."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from components.archive import File


@dataclass(frozen=True)
class Service:
    """A daemon that stays in the foreground. Names hold letters, digits and dashes.

    `state` is the one folder that it writes to; `hidden` are files of its user that it needs not.
    """

    name: str
    description: str
    user: str
    command: tuple[str, ...]
    state: str
    after: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    stop_seconds: int = 15
    open_files: int = 1024


@dataclass(frozen=True)
class Job:
    """A command that ends by itself, run again and again; `writes` are folders it writes to.

    Where a job runs by cron it starts as root; its program then becomes `user` by itself.
    """

    name: str
    description: str
    user: str
    command: tuple[str, ...]
    every: Literal["minute", "day"]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class Platform(ABC):
    """Where things lie on one platform, and how its packages are named.

    `cfssl` is where a package of the platform puts it.

    `packages` gives the package for each needed command (`python3:module` for a Python module).
    `path` is the PATH with which its programs are found, whatever the login shell or cron say.
    """

    name: str
    path: str
    python: str
    cfssl: str
    programs: str
    configuration: str
    generated: str
    authority_state: str
    gate_state: str
    services: str
    authority_user: str
    gate_user: str
    package_command: str
    packages: Mapping[str, str]

    @abstractmethod
    def service_files(self, service: Service) -> dict[str, File]:
        """The definition of a service: one file, by its name in the folder `services`."""

    @abstractmethod
    def job_files(self, job: Job) -> dict[str, File]:
        """The definition of a job, by file name."""

    @property
    def authority(self) -> str:
        """The folder of CFSSL's configuration."""
        return f"{self.configuration}/cfssl"

    @property
    def gate(self) -> str:
        """The folder of the join gate's configuration."""
        return f"{self.configuration}/join-gate"

    @property
    def certdb(self) -> str:
        return f"{self.authority_state}/certdb.sqlite"
