"""The messages of Pulumi's provider protocol, from the installed SDK, without the SDK itself.

`import pulumi` costs 0.12 s, and the engine starts several plugins for every preview. The
generated protocol modules need none of it, so where this runs as a packaged plugin (package.py
sets VERSION_VARIABLE) their parent packages are stood in for while they are loaded.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from pathlib import Path

from tools.plugins import VERSION_VARIABLE

_PARENTS = ("pulumi", "pulumi.runtime", "pulumi.runtime.proto")


def _sdk_folder() -> Path:
    specification = importlib.util.find_spec("pulumi")
    if specification is None or specification.origin is None:
        raise ImportError("Pulumi's Python SDK is not installed for this interpreter")
    return Path(specification.origin).parent


def _stand_in_for_parents() -> list[str]:
    if VERSION_VARIABLE not in os.environ or "pulumi" in sys.modules:
        return []
    folder = _sdk_folder().parent
    for name in _PARENTS:
        package = types.ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = package
    return list(_PARENTS)


_stood_in = _stand_in_for_parents()
try:
    from pulumi.runtime.proto import (
        engine_pb2,
        engine_pb2_grpc,
        plugin_pb2,
        provider_pb2,
        provider_pb2_grpc,
        status_pb2,
    )
finally:
    for _name in _stood_in:
        del sys.modules[_name]

__all__ = [
    "engine_pb2",
    "engine_pb2_grpc",
    "plugin_pb2",
    "provider_pb2",
    "provider_pb2_grpc",
    "status_pb2",
]
