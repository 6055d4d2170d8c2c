"""The signed envelope of CFSSL's authsign: `{"token": base64(HMAC), "request": base64(bytes)}`.

Parsing is strict, because what was checked must be what was meant: no duplicate keys, no foreign
keys, no NaN, no loose base64.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
from dataclasses import dataclass
from typing import Any

from .errors import Refusal

# The stock client sends the first and may send the second; neither is read.
_ENVELOPE_KEYS = {"token", "request", "timestamp", "remote_address"}
# Stands in for the key of a node that does not exist, so that both cases take the same path.
_NO_KEY = secrets.token_bytes(32)


@dataclass(frozen=True)
class Envelope:
    """`request` is the exact bytes that `token` authenticates."""

    token: bytes
    request: bytes

    def authentic(self, key: bytes | None) -> bool:
        """Whether the token is the HMAC-SHA256 of the request under `key`; None never fits."""
        expected = hmac.digest(key or _NO_KEY, self.request, "sha256")
        return hmac.compare_digest(expected, self.token) and bool(key)


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `data`; `what` names it in the refusal."""
    try:
        value = _DECODER.decode(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Refusal(400, f"{what} is not valid JSON: {reason[:120]}") from None
    if not isinstance(value, dict):
        raise Refusal(400, f"{what} must be a JSON object, found {type(value).__name__}")
    return value


def parse_envelope(body: bytes) -> Envelope:
    """The envelope in a request's body."""
    data = parse_object(body, "the body")
    for name in sorted(set(data) - _ENVELOPE_KEYS):
        raise Refusal(400, f"the body has a foreign key: {name[:40]!r}")
    return Envelope(_decode(data, "token"), _decode(data, "request"))


def canonical_base64(text: str) -> bytes:
    """The bytes that `text` encodes; ValueError unless it is the one encoding of them."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("not the usual base64 of its bytes")
    return data


def _decode(data: dict[str, Any], name: str) -> bytes:
    value = data.get(name)
    if not isinstance(value, str):
        raise Refusal(400, f"the body's {name} must be base64 text")
    try:
        return canonical_base64(value)
    except ValueError:
        raise Refusal(400, f"the body's {name} is not base64") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
