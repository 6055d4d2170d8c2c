"""The path patterns of `assetPaths` and `archivePaths`."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from tools.plugins.values import Asset


def matching_assets(folder: str, patterns: Iterable[str]) -> dict[str, Asset]:
    """Files under `folder` by their path in it; `!` patterns exclude, the last match decides."""
    rules = [(not each.startswith("!"), pattern(each.removeprefix("!"))) for each in patterns]
    found: dict[str, Asset] = {}
    for path in sorted(_files(Path(folder))):
        relative = path.relative_to(folder).as_posix()
        decisions = [include for include, rule in rules if rule.fullmatch(relative)]
        if decisions and decisions[-1]:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[relative] = Asset(is_archive=False, path=str(path), hash=digest)
    return found


def _files(folder: Path) -> Iterable[Path]:
    for here, _, names in os.walk(folder):
        yield from (Path(here, name) for name in names)


def pattern(text: str) -> re.Pattern[str]:
    """`*` and `?` stop at `/`, `**` does not; `[a-z]`, `[!a]` and `{one,two}` as usual."""
    parts: list[str] = []
    depth = 0
    for token in re.findall(r"\*\*|\[!?[^\]]+\]|\\.|.", text, re.DOTALL):
        if token == "{":
            depth += 1
            parts.append("(?:")
        elif token == "}" and depth:
            depth -= 1
            parts.append(")")
        elif token == "," and depth:
            parts.append("|")
        else:
            parts.append(_translated(token))
    return re.compile("".join(parts) + ")" * depth, re.DOTALL)


def _translated(token: str) -> str:
    simple = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
    if token in simple:
        return simple[token]
    if len(token) > 2 and token.startswith("["):
        return token.replace("[!", "[^", 1)
    return re.escape(token.removeprefix("\\") if len(token) == 2 else token)
