"""Property values as plain Python: what the engine sends and gets back.

A value is None, bool, int, float, str, list, dict, an `Asset`, or one of two marks:
`UNKNOWN` (known only after the update) and `Secret(value)`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf import struct_pb2

Value = Any
Properties = dict[str, Value]

_SIGNATURE: Final = "4dabf18193072939515e22adb298388d"
_SECRET: Final = "1b47061264138c4ac30d75fd1eb44270"
_ASSET: Final = "c44067f5952c0a294b673a41bacd8c17"
_ARCHIVE: Final = "0def7320c3a5731c473e5ecbe6d01bc7"
_RESOURCE: Final = "5cf8f73096256a8f31e491e813e4eb8e"
_OUTPUT: Final = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
_UNKNOWN_WIRE: Final = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"


class Unknown:
    """The type of `UNKNOWN`."""

    def __repr__(self) -> str:
        return "UNKNOWN"

    def __deepcopy__(self, memo: object) -> Unknown:
        return self


UNKNOWN: Final = Unknown()


@dataclass(frozen=True)
class Secret:
    """A value that must never be shown. Its repr does not show it either."""

    value: Value = field(repr=False)


@dataclass(frozen=True)
class Asset:
    """A Pulumi asset (one file) or archive (a tree): exactly one of path, text, uri, assets."""

    is_archive: bool
    path: str | None = None
    text: str | None = field(default=None, repr=False)
    uri: str | None = None
    assets: dict[str, Asset] | None = None
    hash: str | None = None

    def __eq__(self, other: object) -> bool:
        """Assets are equal where their content is, wherever it lies (as the engine sees it)."""
        if not isinstance(other, Asset):
            return NotImplemented
        if self.hash and other.hash:
            return (self.is_archive, self.hash) == (other.is_archive, other.hash)
        return vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


# --- from and to the wire --------------------------------------------------------------------


def decode(value: struct_pb2.Value) -> Value:
    """A protobuf value as Python; whole numbers become int."""
    kind = value.WhichOneof("kind")
    if kind is None or kind == "null_value":
        return None
    if kind == "bool_value":
        return value.bool_value
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    if kind == "string_value":
        return UNKNOWN if value.string_value == _UNKNOWN_WIRE else value.string_value
    if kind == "list_value":
        return [decode(item) for item in value.list_value.values]
    return _decode_struct(value.struct_value)


def decode_map(struct: struct_pb2.Struct | None) -> Properties:
    """A protobuf struct as a dict of `Value`."""
    return {} if struct is None else {key: decode(item) for key, item in struct.fields.items()}


def _decode_struct(struct: struct_pb2.Struct) -> Value:
    fields = decode_map(struct)
    signature = fields.pop(_SIGNATURE, None)
    if signature is None:
        return fields
    if signature == _SECRET:
        return Secret(fields.get("value"))
    if signature == _OUTPUT:
        inner = fields.get("value", UNKNOWN)
        return Secret(inner) if fields.get("secret") else inner
    if signature in (_ASSET, _ARCHIVE):
        known = {key: fields.get(key) for key in ("path", "text", "uri", "assets", "hash")}
        return Asset(is_archive=signature == _ARCHIVE, **known)
    if signature == _RESOURCE:
        return fields.get("id") or fields.get("urn")
    raise ValueError(f"the engine sent a kind of value that is not known: {signature}")


def encode(value: Value) -> struct_pb2.Value:
    """A Python value for the wire. Dict keys are made strings; tuples are lists."""
    if value is None:
        return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
    if value is UNKNOWN:
        return struct_pb2.Value(string_value=_UNKNOWN_WIRE)
    if isinstance(value, bool):
        return struct_pb2.Value(bool_value=value)
    if isinstance(value, (int, float)):
        return struct_pb2.Value(number_value=value)
    if isinstance(value, str):
        return struct_pb2.Value(string_value=value)
    if isinstance(value, (list, tuple)):
        items = [encode(item) for item in value]
        return struct_pb2.Value(list_value=struct_pb2.ListValue(values=items))
    return struct_pb2.Value(struct_value=encode_map(_encodable_map(value)))


def encode_map(properties: Mapping[str, Value]) -> struct_pb2.Struct:
    """A dict of `Value` as a protobuf struct."""
    return struct_pb2.Struct(fields={str(key): encode(item) for key, item in properties.items()})


def _encodable_map(value: Value) -> Mapping[str, Value]:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, Secret):
        return {_SIGNATURE: _SECRET, "value": value.value}
    if isinstance(value, Asset):
        content = {key: item for key, item in vars(value).items() if item is not None}
        content.pop("is_archive")
        return {_SIGNATURE: _ARCHIVE if value.is_archive else _ASSET, **content}
    raise TypeError(f"a {type(value).__name__} cannot be sent to the engine")


# --- secrets and unknowns --------------------------------------------------------------------


def plain(value: Value) -> Value:
    """`value` without its Secret marks, however deep. UNKNOWN stays."""
    if isinstance(value, Secret):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def contains_secret(value: Value) -> bool:
    """Whether `value` is or holds a Secret."""
    if isinstance(value, dict):
        return any(contains_secret(item) for item in value.values())
    if isinstance(value, list):
        return any(contains_secret(item) for item in value)
    return isinstance(value, Secret)


def contains_unknown(value: Value) -> bool:
    """Whether `value` is or holds UNKNOWN."""
    if isinstance(value, Secret):
        return contains_unknown(value.value)
    if isinstance(value, dict):
        return any(contains_unknown(item) for item in value.values())
    if isinstance(value, list):
        return any(contains_unknown(item) for item in value)
    return value is UNKNOWN


def secret_texts(value: Value, inside: bool = False) -> set[str]:
    """Every string in `value` that is under a Secret mark, for keeping them out of messages."""
    if isinstance(value, Secret):
        return secret_texts(value.value, True)
    if isinstance(value, dict):
        return set().union(*(secret_texts(item, inside) for item in value.values()))
    if isinstance(value, list):
        return set().union(*(secret_texts(item, inside) for item in value))
    if isinstance(value, Asset) and inside and value.text:
        return {value.text}
    return {value} if inside and isinstance(value, str) and value else set()


_HEXADECIMAL_KEY = re.compile(r"[0-9a-f]{32,}")
SHORTEST_SECRET, SHORTEST_LINE = 4, 24  # characters; anything shorter is in every text


def tell_tales(secret: str) -> set[str]:
    """What must not be shown of a secret text: all of it, its long lines, keys inside of it."""
    found = {secret} if len(secret) >= SHORTEST_SECRET else set()
    lines = secret.splitlines()
    if len(lines) > 1:  # output is shown line by line; prose and scripts are no tell-tales
        found |= {line for line in lines if len(line) >= SHORTEST_LINE and " " not in line}
    return found | set(_HEXADECIMAL_KEY.findall(secret))


def keep_secrets(outputs: Properties, inputs: Properties) -> Properties:
    """`outputs`, where what was secret in `inputs` under the same key is secret again."""
    result = dict(outputs)
    for key, given in inputs.items():
        if key not in result or isinstance(result[key], Secret):
            continue
        if isinstance(result[key], dict) and isinstance(given, dict):
            result[key] = keep_secrets(result[key], given)
        elif contains_secret(given):
            result[key] = Secret(plain(result[key]))
    return result


# --- differences -----------------------------------------------------------------------------

ADD, DELETE, UPDATE = "ADD", "DELETE", "UPDATE"
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def differences(old: Value, new: Value, path: str = "") -> dict[str, str]:
    """Property paths in Pulumi's notation (`a.b[0]`) that differ, each ADD, DELETE or UPDATE.

    Both sides without Secret marks. UNKNOWN differs from everything.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, str] = {}
        for key in [*old, *(key for key in new if key not in old)]:
            found |= _difference(_child(path, key), old, new, key, key in old, key in new)
        return found
    if isinstance(old, list) and isinstance(new, list):
        found = {}
        for index in range(max(len(old), len(new))):
            here = f"{path}[{index}]"
            found |= _difference(here, old, new, index, index < len(old), index < len(new))
        return found
    if old is UNKNOWN or new is UNKNOWN:
        return {path: UPDATE}
    same = type(old) is type(new) and old == new
    return {} if same or _same_number(old, new) else {path: UPDATE}


def _difference(
    path: str, old: Value, new: Value, key: Any, in_old: bool, in_new: bool
) -> dict[str, str]:
    before = old[key] if in_old else None
    after = new[key] if in_new else None
    if before is None and after is None:
        return {}
    if before is None:
        return {path: ADD}
    if after is None:
        return {path: DELETE}
    return differences(before, after, path)


def _child(path: str, key: str) -> str:
    if not _PLAIN_KEY.fullmatch(key):
        return f"{path}[{json.dumps(key)}]"
    return f"{path}.{key}" if path else key


def _same_number(old: Value, new: Value) -> bool:
    numbers = (int, float)
    if isinstance(old, bool) or isinstance(new, bool):
        return False
    return isinstance(old, numbers) and isinstance(new, numbers) and old == new
