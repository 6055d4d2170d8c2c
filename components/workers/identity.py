"""A node's identity, and the secrets that are derived for it and for nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SECRET_BYTES = 32


def identity(name: str, generation: int, addresses: Sequence[str], digest: str = "") -> str:
    """The name of one node in one generation, such as `worker-1-g1-3f2a9c1d`.

    It changes with whatever makes the machine another one: the generation, the addresses, and
    `digest`, any text that stands for the rest of what reaches the machine. It is cloud-init's
    instance-id and what the node's secrets are bound to.
    """
    facts = json.dumps([name, generation, list(addresses), digest], separators=(",", ":"))
    return f"{name}-g{generation}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"


def join_key(secret_pem: str, identity: str) -> str:
    """The node's join key: 64 hexadecimal digits, derived from the stack's secret."""
    return _derived(secret_pem, f"autojoin join key {identity}")


def status_token(secret_pem: str, identity: str) -> str:
    """What reads the node's status at the gate: 64 hexadecimal digits. It cannot join anything."""
    return _derived(secret_pem, f"autojoin status token {identity}")


@lru_cache(maxsize=8)
def secret_digest(secret_pem: str) -> str:
    """Tells one stack's secret from another, and nothing else of it."""
    return _derived(secret_pem, "autojoin which secret it is")


@lru_cache(maxsize=8)
def mark_key(secret_pem: str) -> str:
    """What the digests in a preview are keyed with, so that no file can be guessed from its own."""
    return _derived(secret_pem, "autojoin marks of files")


def _derived(secret_pem: str, purpose: str) -> str:
    if not secret_pem.strip():
        raise ValueError("the stack's secret is empty; nothing can be derived from it")
    derivation = HKDF(algorithm=SHA256(), length=SECRET_BYTES, salt=None, info=purpose.encode())
    return derivation.derive(secret_pem.strip().encode()).hex()
