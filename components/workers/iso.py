"""A NoCloud seed as an ISO 9660 image, the same bytes for the same files."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from types import SimpleNamespace

import pycdlib
import pycdlib.dates
import pycdlib.headervd
import pycdlib.pycdlib
import pycdlib.utils

VOLUME = "cidata"  # the label that NoCloud looks for


# `time` that stands still at the epoch, in UTC: pycdlib has no other way to fix its dates.
_NO_TIME = SimpleNamespace(**{**vars(time), "time": lambda: 0.0, "localtime": time.gmtime})
for _module in (pycdlib.pycdlib, pycdlib.headervd, pycdlib.dates, pycdlib.utils):
    _module.time = _NO_TIME  # type: ignore[attr-defined]


def image(files: Mapping[str, bytes]) -> bytes:
    """An image labelled cidata that holds `files`, with their names by Rock Ridge and Joliet.

    Names are of a-z, digits and `-`, as those of a seed.
    """
    disc = pycdlib.PyCdlib()
    disc.new(interchange_level=3, vol_ident=VOLUME, joliet=3, rock_ridge="1.09")
    for name, content in sorted(files.items()):
        plain = name.upper().replace("-", "_")
        disc.add_fp(
            io.BytesIO(content),
            len(content),
            f"/{plain}.;1",
            rr_name=name,
            joliet_path=f"/{name}",
            file_mode=0o100400,
        )
    buffer = io.BytesIO()
    disc.write_fp(buffer)
    disc.close()
    return buffer.getvalue()
