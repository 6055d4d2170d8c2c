"""Jobs by cron, where the platform has nothing better."""

from __future__ import annotations

import shlex

from components import archive
from components.archive import File
from components.certificate_authority.platforms.base import Job

_TIMES = {"minute": "* * * * *", "day": "17 3 * * *"}


def files(job: Job) -> dict[str, File]:
    """The job's line of root's crontab. What it prints is mailed to root, and it is silent."""
    line = f"{_TIMES[job.every]} {shlex.join(job.command)}\n"
    if "%" in line:
        raise ValueError(f"{job.name}: cron takes % for a line break: {line}")
    return {f"{job.name}.cron": archive.text(line, 0o644)}
